"""Commands on configurations: `silofl config` tells of keys, and `silofl init` writes a start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def config(
    name: Annotated[str | None, typer.Argument(metavar="[SECTION[.KEY]]", help="Only these keys.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema that editors use.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/configuration.md.")] = False,
) -> None:
    """Tell what keys a configuration has: types, defaults, choices, and what each does."""
    import json

    from silofl.config import reference
    from silofl.errors import ConfigError

    if (name is not None) + schema + markdown > 1:
        raise ConfigError("silofl config takes a name, --schema or --markdown: leave out all but one")
    if schema:
        typer.echo(json.dumps(reference.schema(), indent=1))
    elif markdown:
        typer.echo(reference.markdown(), nl=False)
    else:
        typer.echo("\n".join(reference.listing(name)))


def init(
    kind: Annotated[
        str, typer.Argument(metavar="[tables|images|task|examples]", help="What to start from.")
    ] = "tables",
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where it goes; here by default.")
    ] = Path(),
) -> None:
    """Write a commented configuration to start from, with made-up data or a task; or silofl's examples."""
    from silofl.starts import write_start

    written, config = write_start(kind, folder)
    for path in written:
        typer.echo(f"written: {path}")
    typer.echo(f"next: {'' if folder == Path() else f'cd {folder} && '}silofl check {config}")
