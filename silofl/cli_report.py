"""`silofl report`: runs as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories; several are compared.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Where the page goes.")
    ] = Path("report.html"),
) -> None:
    """Write one HTML file on runs: metrics, silos, privacy, time, failures; it opens offline."""
    from silofl.checkpoint.atomic_files import write_bytes
    from silofl.cli_options import new_file
    from silofl.errors import ConfigError, DataError
    from silofl.report.page.html import page_of
    from silofl.report.page.shared_files import FILES, read_run

    new_file(output, *(path / name for path in runs for name in FILES))
    if output.exists() and not output.read_bytes()[:15].lower().startswith(b"<!doctype html"):
        raise ConfigError(f"{output} is there, and is no page that could be written anew: name another file")
    try:
        page = page_of([read_run(path) for path in runs]).encode("utf-8", "backslashreplace")
    except RecursionError:
        raise DataError(
            "a run has values that are nested deeper than silofl writes any: it is damaged"
        ) from None
    write_bytes(output, page, private=False)
    typer.echo(f"report {output}: {len(page) / 1000:.0f} kB, opens in any browser without a network")
