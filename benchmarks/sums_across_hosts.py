"""Secure sums and whole rounds between two hosts, beside `MPI_Allreduce` of the same float32 vector.

How hosts are made and what is measured: `links.py`. A secure sum is the whole protocol, with fresh keys; a
round is all of silofl's but training and evaluation. What two hosts have to tell each other of a sum of d
words of b bits is d * b / 8 bytes in each direction.

    python benchmarks/sums_across_hosts.py [--json FILE] [--parameters 10000000] [--repeats 9]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import links
from links import Link, federation, in_turn, rounds

RATES = (100.0, 1000.0, 10_000.0, 100_000.0)
"""Mbit/s in each direction; the last is more than this machine's processors send."""
GOALS = {100.0: "<= 0.4", 1000.0: "<= 0.6", 100_000.0: "<= 1.2"}
"""Of the sum of 16 bits, by rate."""
BITS = (16, 8)
PROTOCOLS = ("secagg", "plain")


def measure(path: Path, megabits: float, parameters: int, repeats: int) -> int:
    """On a rank: all ways in turn; the first rank writes a `Link` to `path`. Collective."""
    import numpy as np

    from silofl.aggregation.secure_sum import SecureAggregator
    from silofl.bench.round import Trivial
    from silofl.comm import run_on_ranks
    from silofl.comm.protocol import Communicator
    from silofl.comm.shutdown import Shutdown

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        task = Trivial(parameters)
        federations = {name: federation(comm, task, {}, {"protocol": name}) for name in PROTOCOLS}
        vector = next(iter(federations.values())).values.copy()
        vector[:] = np.random.default_rng(comm.rank).standard_normal(len(vector)) * 0.05
        sums = {bits: SecureAggregator(comm, len(vector), bits=bits) for bits in BITS}
        calls = {f"secure sum, {bits} bits": sum_of(one, vector) for bits, one in sums.items()}
        calls |= {f"round, {name}": rounds(one) for name, one in federations.items()}
        goals = {f"secure sum, {BITS[0]} bits": GOALS.get(megabits, "")}
        in_turn(comm, path, megabits, calls, vector, repeats, goals)
        for each in (*sums.values(), *federations.values()):
            each.close()

    return run_on_ranks(body)


def sum_of(aggregator: Any, vector: Any) -> Any:
    """Its next sum of a vector, at each call."""
    return lambda: aggregator.sum(vector)


def to_json(found: list[Link], parameters: int) -> str:
    """The figures and the machine for a program to read."""
    return links.to_json("sums across hosts", found, parameters, {})


if __name__ == "__main__":
    links.main(__file__, __doc__ or "", RATES, measure, to_json)
