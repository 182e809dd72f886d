"""`silofl stats`: what all silos' tables are like together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from silofl.cli_options import ConfigPath, Overrides, Run, load
from silofl.errors import ConfigError


def stats(
    config: ConfigPath,
    overrides: Overrides = None,
    run: Run = "",
    bins: Annotated[int, typer.Option(min=2, max=1024, help="Of each histogram.")] = 32,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="COLUMN=LOW:HIGH", help="Publicly known bounds of a column's bins."),
    ] = None,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(min=0.01, max=1e6, help="Of the noise under [privacy]: over what a record is worth."),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write them here, too.")] = None,
) -> None:
    """Count, average and bin all silos' tables by the secure sum; each rank of an mpirun is a silo."""
    from silofl.comm import run_on_ranks
    from silofl.comm.protocol import Communicator
    from silofl.comm.shutdown import Shutdown

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        from silofl import config as configuration
        from silofl.checkpoint.atomic_files import write_json
        from silofl.comm.collective_errors import raise_on_all_ranks
        from silofl.crypto.core_dumps import forbid_core_dumps
        from silofl.federation.entry import own_settings
        from silofl.federation.federated_statistics import FILE, federated_statistics
        from silofl.report.stats_table import print_statistics
        from silofl.tasks.table_statistics import Shown

        forbid_core_dumps()

        def keep_traces(path: Path) -> None:
            shutdown.trace_dir = path

        with configuration.relative_to(Path.cwd()):
            with raise_on_all_ranks(comm):
                mine = own_settings(load(config, overrides, run), comm.rank, comm.size)
                shown = Shown(bins, _parsed(ranges or []), mine.data.least_count, mine.run.seed)
            found, path = federated_statistics(
                mine, shown, comm=comm, noise_multiplier=noise_multiplier, on_directory=keep_traces
            )
        if comm.rank == 0:
            if json is not None:
                write_json(json, found, private=False)
            print_statistics(found, str(path / FILE))

    raise typer.Exit(run_on_ranks(body))


def _parsed(ranges: list[str]) -> dict[str, tuple[float, float]]:
    """By column. ConfigError for what is no range."""
    found = {}
    for text in ranges:
        name, _, bounds = text.rpartition("=")
        low, _, high = bounds.partition(":")
        try:
            pair = float(low), float(high)
        except ValueError:
            pair = math.nan, math.nan
        if not (name and -math.inf < pair[0] < pair[1] < math.inf):
            raise ConfigError(
                f"--range {text!r} is not COLUMN=LOW:HIGH, such as age=0:120, with LOW below HIGH"
            )
        found[name.strip()] = pair
    return found
