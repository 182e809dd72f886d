"""What benchmarks over a link between two hosts have in common: starting, measuring, showing, keeping.

Four ranks on two hosts, two each, whose link carries so many Mbit/s in each direction (namespaces on this
machine: `two_hosts.py`). All ways take turns in one job, beside `MPI_Allreduce` of a float32 vector, and a
turn took as long as its slowest rank. Bytes are those that passed the link, as the first host's device counts
them: headers, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from two_hosts import CONGESTION_CONTROL, HostsError, crossed, two_hosts

from silofl.bench.measure import Call, Row, machine, row, table
from silofl.launcher.environment import THREAD_VARIABLES

RANKS_A_HOST = 2
LONGEST_S = 1500.0
REFERENCE = "MPI_Allreduce, float32"


@dataclass(frozen=True)
class Link:
    """What one job over a link of so many Mbit/s gave."""

    megabits: float
    rows: list[Row]
    crossed: dict[str, int]
    """Bytes that passed the link in the direction that had more: median of the turns."""
    processor_s: dict[str, float]
    """Processor seconds of all ranks together, those in which MPI waits included: mean of the turns."""


def in_turn(
    comm: Any,
    path: Path,
    megabits: float,
    ways: Mapping[str, Call],
    vector: Any,
    repeats: int,
    goals: Mapping[str, str],
) -> None:
    """Measure all ways beside the allreduce of `vector`; the first rank writes a `Link`. Collective."""
    import numpy as np

    from silofl.bench.measure_ranks import interleaved_over_ranks
    from silofl.comm.native import NativeReductions

    native, out, noted = NativeReductions(), np.empty_like(vector), dict[str, list[tuple[int, float]]]()
    calls: dict[str, Call] = {REFERENCE: lambda: native.allreduce(vector, out), **ways}
    counted = {name: counting(call, noted.setdefault(name, [])) for name, call in calls.items()}
    times = interleaved_over_ranks(comm, counted, repeats)
    native.free()
    spent = comm.allreduce(np.array([[seconds for _, seconds in each[1:]] for each in noted.values()]))
    if comm.rank == 0:
        rows = [
            row(name, each, REFERENCE, times[REFERENCE], vector.nbytes / 1e9, goals.get(name, ""))
            for name, each in times.items()
        ]
        passed = {n: round(statistics.median(sent for sent, _ in each[1:])) for n, each in noted.items()}
        seconds = dict(zip(noted, spent.mean(axis=1).tolist(), strict=True))
        path.write_text(json.dumps(asdict(Link(megabits, rows, passed, seconds))))


def federation(
    comm: Any, task: Any, compress: Mapping[str, Any], secure: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """One with the default secure sum, or as `secure` says; collective."""
    from silofl import config as configuration
    from silofl.comm.elastic_group import ElasticGroup
    from silofl.federation.federation import RunContext, setup
    from silofl.federation.start import build_silo
    from silofl.tasks.user_code import UserCode

    settings = configuration.parse(
        {"run": {"display": "none"}, "compress": dict(compress), "secure": dict(secure)}
    )
    group = ElasticGroup(comm)
    silo = build_silo(group, settings, task, UserCode(group.silo_id), comm.size, comm.local_rank)
    return setup(RunContext.of(group, settings, silo, comm.size, Path()))


def rounds(federation: Any) -> Call:
    """Its next round, at each call."""
    from silofl.federation.clock import Clock
    from silofl.federation.round import run_round

    clock, numbers = Clock(), iter(range(1, 1_000_000))
    return lambda: run_round(federation, next(numbers), clock, evaluate=False)


def counting(call: Call, noted: list[tuple[int, float]]) -> Call:
    """A call that notes what passed the link and what processor time this rank spent meanwhile.

    The first call of each was not timed, and is noted, too.
    """

    def counted() -> None:
        before, began = crossed(), time.process_time()
        call()
        noted.append((crossed() - before, time.process_time() - began))

    return counted


def over(script: str, megabits: float, parameters: int, repeats: int) -> Link:
    """Start a script's ranks on two hosts of their own. HostsError where that goes wrong."""
    from silofl.comm.mpi_library import mpi_info

    environ = dict(os.environ) | dict.fromkeys(THREAD_VARIABLES, "1")
    environ |= {"OMPI_MCA_mpi_yield_when_idle": "1"}  # all ranks share this machine's cores
    with tempfile.TemporaryDirectory() as folder, two_hosts(megabits) as hosts:
        path = Path(folder, "link.json")
        argv = [sys.executable, script, "--parameters", str(parameters), "--repeats", str(repeats)]
        argv += ["--on-rank", str(path), "--megabits", str(megabits)]
        code = hosts.mpirun(mpi_info().launchers[0], RANKS_A_HOST, argv, environ, LONGEST_S)
        if code or not path.exists():
            raise HostsError(f"mpirun on two hosts ended with {code}")
        return link_of(json.loads(path.read_text()))


def link_of(told: dict[str, Any]) -> Link:
    """One that was written as JSON."""
    return Link(**told | {"rows": [Row(**one) for one in told["rows"]]})


def measured(path: Path | None, parameters: int) -> dict[float, Link]:
    """What a file has already, of vectors as long, by Mbit/s."""
    if path is None or not path.exists():
        return {}
    told = json.loads(path.read_text())
    links = map(link_of, told["links"] if told["parameters"] == parameters else ())
    return {one.megabits: one for one in links}


def show(console: Console, link: Link, parameters: int) -> None:
    """The rows, and what lay on the link."""
    ranks = f"{2 * RANKS_A_HOST} ranks on two hosts, {parameters} parameters"
    console.print(table(f"{link.megabits:g} Mbit/s, {ranks}", link.rows))
    for one in link.rows:
        sent = link.crossed[one.name]
        busy, spent = f"{8e-6 * sent / one.seconds:.0f} Mbit/s", link.processor_s[one.name]
        told = f"{sent / 1e6:.2f} MB on the link, at {busy}; processor time of all ranks {spent:.2f} s"
        console.print(f"  {one.name}: {told}", highlight=False)


def to_json(benchmark: str, links: Sequence[Link], parameters: int, more: Mapping[str, Any]) -> str:
    """The figures and the machine for a program to read."""
    told = {"benchmark": benchmark, "machine": machine(), "parameters": parameters, **more}
    told |= {"ranks_a_host": RANKS_A_HOST, "congestion_control": CONGESTION_CONTROL}
    return json.dumps(told | {"links": [asdict(one) for one in links]}, indent=1) + "\n"


def main(
    script: str,
    text: str,
    rates: Sequence[float],
    measure: Callable[[Path, float, int, int], int],
    kept: Callable[[list[Link], int], str],
    plot: Callable[[list[Link], Path], None] | None = None,
) -> None:
    """The command of a script: measure all links and show them, or `measure` one on a rank.

    `text` is its description, `kept` makes a file of figures, in which those of other links stay.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=9, help="turns")
    parser.add_argument("--on-rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--megabits", type=float, nargs="*", default=rates, help="of the links")
    if plot is not None:
        parser.add_argument("--plot", type=Path, help="draw them here (.svg, .png)")
    given = parser.parse_args()
    if given.on_rank is not None:
        sys.exit(measure(given.on_rank, given.megabits[0], given.parameters, given.repeats))
    console, links = Console(width=120), measured(given.json, given.parameters)
    for megabits in given.megabits:
        try:
            links[megabits] = over(script, megabits, given.parameters, given.repeats)
        except HostsError as error:
            sys.exit(f"over {megabits:g} Mbit/s nothing was measured: {error}")
        show(console, links[megabits], given.parameters)
        if given.json is not None:
            given.json.write_text(kept([*links.values()], given.parameters))
    if plot is not None and given.plot is not None:
        plot([*links.values()], given.plot)
