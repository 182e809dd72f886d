"""`silofl bench allreduce`: the secure sum beside `MPI_Allreduce` of the same float32 vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from silofl.aggregation.secure_sum import SecureAggregator
from silofl.bench.measure import Call, Row, row
from silofl.bench.measure_ranks import cpu_seconds_of_all, interleaved_over_ranks
from silofl.comm.native import NativeReductions
from silofl.comm.protocol import Communicator
from silofl.config import SecureConfig

PLAIN = "MPI_Allreduce, float32"


@dataclass(frozen=True)
class Result:
    """Figures of one vector length; the same on every rank."""

    rows: list[Row]
    notes: list[str]


def run(comm: Communicator, *, parameters: int, bits: int, repeats: int, pickled: bool) -> Result:
    """Measure one vector length; collective.

    The secure sum is the whole protocol: fresh keys, shares, double masks, agreement and reveal. Both sums
    are written to memory that is kept.
    """
    x = (np.random.default_rng(comm.rank).standard_normal(parameters) * 0.05).astype(np.float32)
    out, total = np.empty_like(x), np.empty_like(x)
    native = NativeReductions()
    config = SecureConfig(allow_two=True)
    with SecureAggregator(comm, parameters, bits=bits, config=config) as aggregator:
        secure = f"secure sum, {bits}-bit ring"
        calls: dict[str, Call] = {
            PLAIN: lambda: native.allreduce(x, out),
            secure: lambda: aggregator.sum(x, out=total),
        }
        if pickled:
            calls["allreduce of a pickled array"] = lambda: native.pickled_allreduce(x)
        times = interleaved_over_ranks(comm, calls, repeats)
        cpu = cpu_seconds_of_all(comm, calls[secure], max(3, repeats // 3))
        error = float(np.abs(aggregator.sum(x, out=total) - out).max())
    native.free()
    goals = {secure: "<= 1.5" if parameters < 1 << 22 else "<= 1.0" if comm.size == 4 else "<= 1.2"}
    rows = [
        row(name, t, PLAIN, times[PLAIN], x.nbytes / 1e9, goals.get(name, "")) for name, t in times.items()
    ]
    sent = (parameters - parameters // comm.size) * bits // 8
    return Result(
        rows,
        [
            f"{cpu:.3f} CPU seconds a secure sum, all {comm.size} silos together, waiting included",
            f"{sent / parameters:.2f} bytes a parameter leave each silo towards the owners of slices",
            f"largest difference from the float32 sum: {error:.1e}",
        ],
    )
