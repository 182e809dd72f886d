"""Secure sums and plain rounds between two hosts, beside `MPI_Allreduce` of the same float32 vector.

Four ranks on two hosts, two each (namespaces on this machine: `two_hosts.py`), as in `slow_links.py`, whose
measure of time, of bytes on the link and of processor time this is. A secure sum is the whole protocol, with
fresh keys; a round is all of silofl's but training and evaluation. What two hosts have to tell each other of
a sum of d words of b bits is d * b / 8 bytes in each direction.

    python benchmarks/sums_across_hosts.py [--json FILE] [--parameters 10000000] [--repeats 9]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from slow_links import LONGEST_S, RANKS_A_HOST, REFERENCE, Link, counting, federation, link_of, rounds, show
from two_hosts import CONGESTION_CONTROL, HostsError, two_hosts

from silofl.bench.measure import machine, row
from silofl.launcher.environment import THREAD_VARIABLES

RATES = (100.0, 1000.0, 10_000.0, 100_000.0)
"""Mbit/s in each direction; the last is more than this machine's processors send."""
GOALS = {100.0: 0.4, 1000.0: 0.6, 100_000.0: 1.2}
"""Of the sum of 16 bits, by rate."""
BITS = (16, 8)
PROTOCOLS = ("secagg", "plain")


def measure(path: Path, megabits: float, parameters: int, repeats: int) -> int:
    """On a rank: all ways in turn; the first rank writes a `Link` to `path`. Collective."""
    import numpy as np

    from silofl.aggregation.secure_sum import SecureAggregator
    from silofl.bench.measure_ranks import interleaved_over_ranks
    from silofl.bench.round import Trivial
    from silofl.comm import run_on_ranks
    from silofl.comm.native import NativeReductions
    from silofl.comm.protocol import Communicator
    from silofl.comm.shutdown import Shutdown

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        native, task, noted = NativeReductions(), Trivial(parameters), dict[str, list[tuple[int, float]]]()
        federations = {name: federation(comm, task, {}, {"protocol": name}) for name in PROTOCOLS}
        vector = next(iter(federations.values())).values.copy()
        vector[:] = np.random.default_rng(comm.rank).standard_normal(len(vector)) * 0.05
        out = np.empty_like(vector)
        sums = {bits: SecureAggregator(comm, len(vector), bits=bits) for bits in BITS}
        calls: dict[str, Any] = {REFERENCE: lambda: native.allreduce(vector, out)}
        calls |= {f"secure sum, {bits} bits": sum_of(one, vector) for bits, one in sums.items()}
        calls |= {f"round, {name}": rounds(one) for name, one in federations.items()}
        counted = {name: counting(call, noted.setdefault(name, [])) for name, call in calls.items()}
        times = interleaved_over_ranks(comm, counted, repeats)
        for each in (*sums.values(), *federations.values()):
            each.close()
        native.free()
        spent = comm.allreduce(np.array([[seconds for _, seconds in each[1:]] for each in noted.values()]))
        if comm.rank == 0:
            goal = {f"secure sum, {BITS[0]} bits": f"<= {GOALS[megabits]}"} if megabits in GOALS else {}
            rows = [
                row(name, each, REFERENCE, times[REFERENCE], vector.nbytes / 1e9, goal.get(name, ""))
                for name, each in times.items()
            ]
            crossed = {n: round(statistics.median(sent for sent, _ in each[1:])) for n, each in noted.items()}
            seconds = dict(zip(noted, spent.mean(axis=1).tolist(), strict=True))
            path.write_text(json.dumps(asdict(Link(megabits, rows, crossed, seconds))))

    return run_on_ranks(body)


def sum_of(aggregator: Any, vector: Any) -> Any:
    """Its next sum of a vector, at each call."""
    return lambda: aggregator.sum(vector)


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


def to_json(links: list[Link], parameters: int) -> str:
    """The figures and the machine for a program to read."""
    told = {"benchmark": "sums across hosts", "machine": machine(), "parameters": parameters}
    told |= {"ranks_a_host": RANKS_A_HOST, "congestion_control": CONGESTION_CONTROL}
    return json.dumps(told | {"links": [asdict(one) for one in links]}, indent=1) + "\n"


def main() -> None:
    """Measure all links, and show them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=9, help="turns")
    parser.add_argument("--on-rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--megabits", type=float, nargs="*", default=RATES, help="of the links")
    given = parser.parse_args()
    if given.on_rank is not None:
        sys.exit(measure(given.on_rank, given.megabits[0], given.parameters, given.repeats))
    console, links = Console(width=120), list[Link]()
    for megabits in given.megabits:
        try:
            links.append(over(megabits, given.parameters, given.repeats))
        except HostsError as error:
            sys.exit(f"sums over {megabits:g} Mbit/s were not measured: {error}")
        show(console, links[-1], given.parameters)
    if given.json is not None:
        given.json.write_text(to_json(links, given.parameters))


if __name__ == "__main__":
    main()
