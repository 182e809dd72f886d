"""`silofl verify`: whether the audit trail of a run holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run directory, or several institutions' copies of one."),
    ],
    roster: Annotated[
        Path | None, typer.Option(help="Roster whose keys the signatures have to be by.")
    ] = None,
) -> None:
    """Verify a run's audit trail: chain, signatures, copies and model; exit code 3 where it does not hold."""
    from silofl.checkpoint.audit_trail import TrailError
    from silofl.checkpoint.trail_verification import verified
    from silofl.crypto.roster import Roster
    from silofl.errors import EXIT_FALSE_CLAIM

    keys = None if roster is None else Roster.load(roster)
    try:
        typer.echo(verified(runs, keys).text(), nl=False)
    except TrailError as error:
        typer.echo(f"silofl: {error}", err=True)
        raise typer.Exit(EXIT_FALSE_CLAIM) from None
