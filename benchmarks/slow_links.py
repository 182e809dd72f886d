"""Rounds over a slow link, with [compress] and without, beside `MPI_Allreduce` of the same float32 vector.

Four ranks on two hosts, two each, whose link carries 100 Mbit/s or 1 Gbit/s in each direction (namespaces on
this machine: `two_hosts.py`). A round is all of silofl's but training and evaluation: keys, masks, sum, the
server's step and the new model on every rank. All ways take turns in one job, and a turn took as long as its
slowest rank. Bytes are those that passed the link, as the first host's device counts them: headers, too.
Figures of other links that FILE has already are kept in it.

    python benchmarks/slow_links.py [--json FILE] [--plot FILE] [--parameters 10000000] [--repeats 9]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from side_by_side import pyplot
from two_hosts import CONGESTION_CONTROL, HostsError, crossed, two_hosts

from silofl.bench.measure import Call, Row, machine, row, table
from silofl.launcher.environment import THREAD_VARIABLES

RANKS_A_HOST = 2
RATES = (100.0, 1000.0)
"""Mbit/s in each direction."""
LONGEST_S = 1500.0
REFERENCE = "MPI_Allreduce, float32"
FEEDBACK = {"rotation": True, "error_feedback": True}
FEW = {"bits": 4} | FEEDBACK
WAYS: dict[str, dict[str, Any]] = {
    "secagg": {},
    "16 bits": {"bits": 16},
    "8 bits": {"bits": 8},
    "4 bits": {"bits": 4},
    "4 bits, rotation, error feedback": FEW,
    "random_k 0.5, the same": {"name": "random_k", "ratio": 0.5} | FEW,
    "random_k 0.25, the same": {"name": "random_k", "ratio": 0.25} | FEW,
    "random_k 0.1, the same": {"name": "random_k", "ratio": 0.1} | FEW,
    "powersgd, rank 8": {"name": "powersgd", "rank": 8},
    "powersgd, rank 2": {"name": "powersgd", "rank": 2},
}
"""[compress] of each."""
WIDTH = 2500
"""Columns of the matrix that the model is for PowerSGD; else it has 16, as in `silofl bench round`."""
SHORT = [name for name, compress in WAYS.items() if "name" in compress]
GOALS = {RATES[0]: "<= 0.15"}
"""Of the best of the short ones, by rate."""


@dataclass(frozen=True)
class Link:
    """What one job over a link of so many Mbit/s gave."""

    megabits: float
    rows: list[Row]
    crossed: dict[str, int]
    """Bytes that passed the link in the direction that had more: median of the turns."""
    processor_s: dict[str, float]
    """Processor seconds of all ranks together, those in which MPI waits included: mean of the turns."""


def measure(path: Path, megabits: float, parameters: int, repeats: int) -> int:
    """On a rank: all ways in turn; the first rank writes a `Link` to `path`. Collective."""
    import numpy as np

    from silofl.bench.measure_ranks import interleaved_over_ranks
    from silofl.bench.round import Trivial
    from silofl.comm import run_on_ranks
    from silofl.comm.native import NativeReductions
    from silofl.comm.protocol import Communicator
    from silofl.comm.shutdown import Shutdown

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        native, flat, matrix = NativeReductions(), Trivial(parameters), Trivial(parameters, WIDTH)
        noted: dict[str, list[tuple[int, float]]] = {}
        federations = {
            name: federation(comm, matrix if compress.get("name") == "powersgd" else flat, compress)
            for name, compress in WAYS.items()
        }
        vector = next(iter(federations.values())).values.copy()
        out = np.empty_like(vector)
        calls = {REFERENCE: lambda: native.allreduce(vector, out)}
        calls |= {name: rounds(one) for name, one in federations.items()}
        counted = {name: counting(call, noted.setdefault(name, [])) for name, call in calls.items()}
        times = interleaved_over_ranks(comm, counted, repeats)
        for one in federations.values():
            one.close()
        native.free()
        spent = comm.allreduce(np.array([[seconds for _, seconds in each[1:]] for each in noted.values()]))
        if comm.rank == 0:
            passed = {
                name: round(statistics.median(sent for sent, _ in each[1:])) for name, each in noted.items()
            }
            seconds = dict(zip(noted, spent.mean(axis=1).tolist(), strict=True))
            found = Link(megabits, rows_of(megabits, times, vector.nbytes), passed, seconds)
            path.write_text(json.dumps(asdict(found)))

    return run_on_ranks(body)


def rows_of(megabits: float, times: Mapping[str, list[float]], nbytes: int) -> list[Row]:
    """Each way against the reference."""
    goal = GOALS.get(megabits, "")
    return [
        row(name, each, REFERENCE, times[REFERENCE], nbytes / 1e9, goal if name in SHORT else "")
        for name, each in times.items()
    ]


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


def over(megabits: float, parameters: int, repeats: int) -> Link:
    """Start the ranks on two hosts of their own. HostsError where that goes wrong."""
    from silofl.comm.mpi_library import mpi_info

    environ = dict(os.environ) | dict.fromkeys(THREAD_VARIABLES, "1")
    environ |= {"OMPI_MCA_mpi_yield_when_idle": "1"}  # all ranks share this machine's cores
    with tempfile.TemporaryDirectory() as folder, two_hosts(megabits) as hosts:
        path = Path(folder, "link.json")
        argv = [sys.executable, __file__, "--parameters", str(parameters), "--repeats", str(repeats)]
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


def plot(links: list[Link], path: Path) -> None:
    """Ratios of times with their quartiles, and of bytes on the link, by way and link."""
    sheet, axes = pyplot().subplots(1, len(links), figsize=(11, 4), sharey=True, squeeze=False)
    for pane, link in zip(axes[0], links, strict=True):
        ways = [one for one in link.rows if one.name != REFERENCE]
        places = range(len(ways))
        errors = [[one.ratio - one.ratio_low for one in ways], [one.ratio_high - one.ratio for one in ways]]
        pane.barh(places, [one.ratio for one in ways], xerr=errors, capsize=3, label="time")
        sent = [link.crossed[one.name] / link.crossed[REFERENCE] for one in ways]
        pane.plot(sent, places, "k|", markersize=14, label="bytes on the link")
        pane.set_yticks(places, [one.name for one in ways])
        pane.set(title=f"{link.megabits:g} Mbit/s", xlabel="over MPI_Allreduce, float32", xlim=(0, None))
        pane.axvline(1.0, linewidth=0.8, color="grey")
    axes[0][0].invert_yaxis()  # of all panes, which share it
    axes[0][0].legend()
    sheet.tight_layout()
    sheet.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def show(console: Console, link: Link, parameters: int) -> None:
    """The rows, and what lay on the link."""
    ranks = f"{2 * RANKS_A_HOST} ranks on two hosts, {parameters} parameters"
    console.print(table(f"{link.megabits:g} Mbit/s, {ranks}", link.rows))
    for one in link.rows:
        sent = link.crossed[one.name]
        busy, spent = f"{8e-6 * sent / one.seconds:.0f} Mbit/s", link.processor_s[one.name]
        told = f"{sent / 1e6:.2f} MB on the link, at {busy}; processor time of all ranks {spent:.2f} s"
        console.print(f"  {one.name}: {told}", highlight=False)


def to_json(links: list[Link], parameters: int) -> str:
    """The figures and the machine for a program to read."""
    told = {"benchmark": "slow links", "machine": machine(), "parameters": parameters, "ways": WAYS}
    told |= {"ranks_a_host": RANKS_A_HOST, "congestion_control": CONGESTION_CONTROL}
    return json.dumps(told | {"links": [asdict(one) for one in links]}, indent=1) + "\n"


def main() -> None:
    """Measure all links, and show them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--plot", type=Path, help="draw them here (.svg, .png)")
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=9, help="turns")
    parser.add_argument("--on-rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--megabits", type=float, nargs="*", default=RATES, help="of the links")
    given = parser.parse_args()
    if given.on_rank is not None:
        sys.exit(measure(given.on_rank, given.megabits[0], given.parameters, given.repeats))
    console, links = Console(width=120), measured(given.json, given.parameters)
    for megabits in given.megabits:
        try:
            links[megabits] = over(megabits, given.parameters, given.repeats)
        except HostsError as error:
            sys.exit(f"rounds over {megabits:g} Mbit/s were not measured: {error}")
        show(console, links[megabits], given.parameters)
        if given.json is not None:
            given.json.write_text(to_json([*links.values()], given.parameters))
    if given.plot is not None:
        plot([*links.values()], given.plot)


if __name__ == "__main__":
    main()
