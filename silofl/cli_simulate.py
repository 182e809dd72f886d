"""`silofl simulate`: synchronous, with a deadline or in buffers: which would reach a target first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silofl.cli_options import ConfigPath, Overrides, Ranks, load
from silofl.errors import ConfigError


def simulate(
    config: ConfigPath,
    n: Ranks = None,
    overrides: Overrides = None,
    speeds: Annotated[
        str | None,
        typer.Option(metavar="S,S,...", help="Seconds that a round takes each silo: 1,1,1,5."),
    ] = None,
    measured: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="Take them from the metrics of this run.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds of a round with a deadline.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="METRIC>=X", help="Train in this process until it is reached: accuracy>=0.95."),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write what was found here, too.")] = None,
) -> None:
    """Tell in virtual time which way of waiting for silos of unlike speed reaches a target first."""
    from silofl.checkpoint.atomic_files import write_json
    from silofl.federation.pace_comparison import Goal, compare, measured_seconds, refuse_incomparable
    from silofl.report.pace_table import print_comparison

    settings = load(config, overrides, "")
    if (speeds is None) == (measured is None):
        raise ConfigError("silofl simulate takes seconds from one place: give --speeds 1,1,1,5 or --from RUN")
    mine = settings.of(0)
    refuse_incomparable(mine)
    seconds = _parsed(speeds) if speeds is not None else measured_seconds(measured or Path())
    silos = settings.silos(len(seconds) if n is None else n)
    if len(seconds) != silos:
        raise ConfigError(f"there are seconds of {len(seconds)} silos, and {silos} silos: give one for each")
    goal = None if target is None else Goal.named(target)
    if goal is not None and settings.institutions:
        raise ConfigError("--target trains here, and each [[institution]] has data elsewhere: leave it out")
    found = compare(mine, silos, seconds, deadline_s=deadline, goal=goal)
    outcomes = [one.to_json() for one in found]
    said = target or f"{silos * mine.run.rounds} updates, as of {mine.run.rounds} rounds of all silos"
    if json is not None:
        write_json(json, {"seconds": seconds, "target": said, "policies": outcomes}, private=False)
    print_comparison(outcomes, seconds, said)


def _parsed(text: str) -> list[float]:
    """Seconds of each silo. ConfigError for what are none."""
    try:
        found = [float(one) for one in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < one < float("inf") for one in found):
        raise ConfigError(f"--speeds {text!r} are no seconds above 0, separated by commas, such as 1,1,1,5")
    return found
