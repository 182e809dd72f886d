"""Neighbourhood collectives of MPI's graph communicators beside pairwise messages, on a ring.

    mpirun -n 4 python benchmarks/neighbourhood.py [VALUES] [REPEATS]

Rank 0 prints the median time of one exchange of so many float32 values with both neighbours, each way.
"""

from __future__ import annotations

import statistics
import sys
import time

from silofl.launcher.environment import prepare_environment

prepare_environment()

import numpy as np  # noqa: E402

from silofl.comm.mpi import MpiCommunicator  # noqa: E402
from silofl.comm.neighbourhood import PairwiseNeighbourhood  # noqa: E402


def main(values: int = 1_000_000, repeats: int = 20) -> None:
    """Time both ways in turn."""
    comm = MpiCommunicator()
    around = sorted({(comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size} - {comm.rank})
    ways = {
        "graph communicator": comm.neighbourhood(around, around),
        "pairwise messages": PairwiseNeighbourhood(comm.exchange, tuple(around), tuple(around)),
    }
    send = np.full((len(around), values), comm.rank, np.float32)
    receive = np.empty_like(send)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 2):
        for name, way in ways.items():
            comm.barrier()
            began = time.perf_counter()
            way.alltoall(send, receive)
            comm.barrier()
            taken[name].append(time.perf_counter() - began)
            assert (receive == np.array(around, np.float32)[:, None]).all()
    if comm.rank == 0:
        for name, seconds in taken.items():
            print(f"{name}: {statistics.median(seconds[2:]) * 1e3:.2f} ms for {values} values")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
