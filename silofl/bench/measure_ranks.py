"""Timing across ranks: everybody starts together, and a call took as long as its slowest rank."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from silofl.bench.measure import Call
from silofl.comm.protocol import Communicator


def interleaved_over_ranks(
    comm: Communicator, calls: Mapping[str, Call], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each call in each round, of the slowest rank; one untimed round comes first. Collective."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            comm.barrier()
            began = time.perf_counter()
            call()
            elapsed = np.array([time.perf_counter() - began])
            slowest = float(comm.allreduce(elapsed, "max")[0])
            if number:
                times[name].append(slowest)
    return times


def cpu_seconds_of_all(comm: Communicator, call: Call, rounds: int) -> float:
    """Processor seconds that all ranks together spend on one call, waiting included; collective."""
    comm.barrier()
    began = time.process_time()
    for _ in range(rounds):
        call()
    spent = np.array([(time.process_time() - began) / rounds])
    return float(comm.allreduce(spent)[0])
