"""`silofl bench memory`: what one secure sum adds to each rank's memory, beside the vector that it adds up.

Linux keeps the largest resident set of a process (`VmHWM`) and lets it be reset. The measurement begins once
the vector is there and kernels are loaded, and ends after one whole sum; what is found more than before, less
the result, was added: buffers, keys, the slice of words. Of a page that k ranks share each counts a k-th
(Pss in proc(5)).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from silofl.aggregation.secure_sum import SecureAggregator
from silofl.bench.measure import machine
from silofl.comm.collective_errors import allgather_object, raise_on_all_ranks
from silofl.comm.protocol import Communicator
from silofl.config import SecureConfig
from silofl.crypto.capacity import check_capacity, word_limit
from silofl.errors import ConfigError
from silofl.types import RingBits
from silofl_kernels import dequantize, ring_dtype

GOAL = 0.5
"""Most that a sum may add, in vectors."""
BITS: RingBits = 16
RANGE = 1.0
CHUNK = 1 << 22
SAMPLES = 1 << 16
WARM_UP = 4096
SPARE_BYTES = 400 << 20
"""For each rank, beside vectors: interpreter, libraries, kernels."""
STATUS, SHARES = Path("/proc/self/status"), Path("/proc/self/smaps_rollup")
CLEAR = Path("/proc/self/clear_refs")
GIB = float(1 << 30)


@dataclass(frozen=True)
class Figures:
    """Bytes on one rank; `added` has no part in vector or result."""

    rank: int
    vector: int
    added: int
    ratio: float
    """`added` over `vector`."""
    seconds: float
    """Of the sum."""
    peak_was_reset: bool
    """If not, `added` is an upper bound."""


def run(comm: Communicator, *, parameters: int) -> list[Figures]:
    """Measure one secure sum of `parameters` float32 values on every rank; collective.

    Every rank gets all ranks' figures.

    Raises:
        ConfigError: not Linux, or too little memory is free. On every rank.
        SiloflError: the sum is not exactly the sum of the fixed-point values. On every rank.
    """
    with raise_on_all_ranks(comm):
        _check_room(comm, parameters)
    config = SecureConfig(allow_two=True)
    with SecureAggregator(comm, WARM_UP, bits=BITS, value_range=RANGE, config=config) as warm_up:
        warm_up.sum(np.zeros(WARM_UP, np.float32))
    x = _vector(comm.rank, parameters)
    comm.barrier()

    was_reset = _reset_peak()
    before, twice_before = _bytes(STATUS, "VmRSS"), _counted_by_others()
    comm.barrier()
    began = time.perf_counter()
    with SecureAggregator(comm, parameters, bits=BITS, value_range=RANGE, config=config) as aggregator:
        result = aggregator.sum(x)
        seconds = time.perf_counter() - began
        comm.barrier()
        twice = _counted_by_others() - twice_before
        peak = _bytes(STATUS, "VmHWM")
        comm.barrier()  # nobody unmaps what is shared before all have looked at it
    added = peak - before - result.nbytes - max(0, twice)

    _check_sum(comm, x, result)
    own = Figures(comm.rank, x.nbytes, added, added / x.nbytes, seconds, was_reset)
    return [Figures(**figures) for figures in allgather_object(comm, asdict(own))]


def table(figures: list[Figures]) -> Table:
    """The figures for a person to read."""
    out = Table(title_justify="left", title=f"memory of a secure sum, {len(figures)} ranks")
    for heading in ("rank", "vector, MiB", "added, MiB", "added / vector", "goal", "seconds"):
        out.add_column(heading, justify="right")
    for one in figures:
        colour = "[green]" if one.ratio <= GOAL else "[yellow]"
        sign = "" if one.peak_was_reset else "<= "
        out.add_row(
            str(one.rank), f"{one.vector / 2**20:.0f}", f"{sign}{one.added / 2**20:.0f}",
            f"{colour}{sign}{one.ratio:.2f}", f"<= {GOAL}", f"{one.seconds:.2f}",
        )  # fmt: skip
    return out


def to_json(figures: list[Figures]) -> str:
    """The figures and the machine for a program to read."""
    told = {"benchmark": "memory", "machine": machine(), "goal": GOAL}
    return json.dumps(told | {"ranks": [asdict(one) for one in figures]}, indent=2)


def _check_room(comm: Communicator, parameters: int) -> None:
    """Raise ConfigError before memory runs out and the system ends a process."""
    if not STATUS.exists():
        raise ConfigError("silofl bench memory reads Linux's /proc/self/status, which is not here")
    vector = 4 * parameters
    needed = comm.local_size * (round((2 + GOAL) * vector) + SPARE_BYTES)
    free = _available()
    if needed > free:
        raise ConfigError(
            f"{comm.local_size} ranks on this machine need {needed / GIB:.1f} GiB for vectors of "
            f"{vector / GIB:.2f} GiB and {free / GIB:.1f} GiB are free: give fewer --parameters or ranks"
        )


def _available() -> int:
    """Bytes that new processes may take: the machine's, or what the control group's limit leaves."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) << 10
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))


def _vector(rank: int, parameters: int) -> NDArray[np.float32]:
    """Values within the range, made in place: temporaries would raise the peak."""
    rng = np.random.default_rng(rank)
    x = np.empty(parameters, np.float32)
    for start in range(0, parameters, CHUNK):
        part = x[start : start + CHUNK]
        rng.random(out=part, dtype=np.float32)
        part -= np.float32(0.5)
    return x


def _check_sum(comm: Communicator, x: NDArray[np.float32], result: NDArray[np.float32]) -> None:
    """Hold sampled values, first and last too, to the bits of the plain fixed-point sum; collective."""
    places = np.linspace(0, x.size - 1, min(SAMPLES, x.size)).astype(np.int64)
    share, scale = 1.0 / comm.size, check_capacity(BITS, RANGE, comm.size)
    limit = word_limit(share, RANGE, scale)
    words = np.rint(x[places] * np.float32(share * scale)).astype(np.int64)
    total = comm.allreduce(np.clip(words, -limit, limit))
    expected = np.empty(places.size, np.float32)
    dequantize(total.astype(ring_dtype(BITS)), expected, step=comm.size / scale)
    with raise_on_all_ranks(comm):
        wrong = int(np.count_nonzero(expected != result[places]))
        if wrong:
            raise ArithmeticError(f"{wrong} of {places.size} sampled values of the sum are wrong")


def _reset_peak() -> bool:
    """Let the peak begin anew from what is resident now; False where the system does not allow it."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _counted_by_others() -> int:
    """Bytes of shared memory in this process's resident set that are other processes' part; 0 if not told."""
    try:
        return _bytes(STATUS, "RssShmem") - _bytes(SHARES, "Pss_Shmem")
    except (OSError, StopIteration):
        return 0


def _bytes(table: Path, name: str) -> int:
    """Bytes under a name of one of the kernel's tables of this process, which are in KiB."""
    return next(int(line.split()[1]) << 10 for line in table.open() if line.startswith(f"{name}:"))
