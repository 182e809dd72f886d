"""What silos hand to each other in a sum is noise: uniform, no trace of the update, never the same again.

Recorded at the communicator, below everything that masks. The bounds are fixed: good noise oversteps one of
them in one run of this file out of two million.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl.aggregation.secure_sum import SecureAggregator
from silofl.comm.protocol import Communicator, SharedBuffer
from silofl.comm.threads import run_in_threads
from silofl.types import RingBits
from silofl_kernels import ring_dtype
from tests.aggregation.harness import scaled_words

SILOS, SIZE, RANGE = 3, 3 << 16, 1.0  # the vector goes in one chunk, and slices are whole rows
LOWEST, HIGHEST = 141.0, 415.0  # chi-square, 255 degrees of freedom: 1e-9 lies below, 1e-9 above
MOST_CORRELATION = 6.11 / np.sqrt(SIZE)  # of independent words: normal, 1e-9 for both sides

FORM = b'{"shape": [%d], "dtype": "float32"}' % SIZE
"""What ranks tell each other of their arrays before every sum; no secret."""

each_ring = pytest.mark.parametrize("bits", [8, 16, 32])
each_way = pytest.mark.parametrize("shared", [False, True], ids=["messages", "window"])


@dataclass
class Wire:
    """What one silo gave away in one sum."""

    rows: list[NDArray[Any]] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)


class Recording:
    """A communicator that keeps what goes out, and lets ranks share memory or not."""

    def __init__(self, comm: Communicator, shared: bool, sums: list[Wire]) -> None:
        self._comm, self._shared, self._sums = comm, shared, sums

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def duplicate(self) -> Recording:
        return Recording(self._comm.duplicate(), self._shared, self._sums)

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        self._sums[-1].rows.append(send.copy())
        self._comm.alltoall(send, receive)

    def allgather_bytes(self, payload: bytes) -> list[bytes]:
        self._sums[-1].messages.append(payload)
        return self._comm.allgather_bytes(payload)

    def alltoall_bytes(self, payloads: Any) -> list[bytes]:
        self._sums[-1].messages += payloads
        return self._comm.alltoall_bytes(payloads)

    def shared_buffer(self, nbytes: int) -> SharedBuffer | None:
        buffer = self._comm.shared_buffer(nbytes) if self._shared else None
        return buffer and RecordingBuffer(buffer, self._comm.rank, self._sums)


class RecordingBuffer:
    """Shared memory of which this rank's segment is kept whenever others may read it."""

    def __init__(self, buffer: SharedBuffer, rank: int, sums: list[Wire]) -> None:
        self._buffer, self._rank, self._sums = buffer, rank, sums

    def __getattr__(self, name: str) -> Any:
        return getattr(self._buffer, name)

    def sync(self) -> None:
        self._sums[-1].rows.append(self.segments[self._rank].copy())
        self._buffer.sync()


@dataclass
class Sent:
    """One silo's part of a run: what it gave away, sum by sum, and the sums."""

    sums: list[Wire]
    totals: list[NDArray[Any]]

    def words(self, number: int, bits: RingBits) -> NDArray[Any]:
        """The vector of one sum as it went out; first in shared memory, in one of two buffers in turn."""
        first = self.sums[number].rows[0].reshape(-1).view(np.uint8)
        nbytes = SIZE * bits // 8
        syncs = sum(len(wire.rows) for wire in self.sums[1:number])
        start = nbytes * (syncs % 2) if first.size > nbytes else 0
        return first[start : start + nbytes].view(ring_dtype(bits))


def updates() -> list[NDArray[np.float32]]:
    """The same in every run; peaked around zero, so far from uniform that a leak shows."""
    return [(np.random.default_rng(k).standard_normal(SIZE) * 0.05).astype(np.float32) for k in range(SILOS)]


def run(bits: RingBits, shared: bool, sums: int = 2) -> list[Sent]:
    """Add the same vectors up some times in a run of its own."""
    random.seed(7)
    np.random.seed(7)
    values = updates()

    def rank(comm: Communicator) -> Sent:
        sent = Sent([Wire()], [])
        with SecureAggregator(Recording(comm, shared, sent.sums), SIZE, bits=bits, value_range=RANGE) as one:
            for _ in range(sums):
                sent.sums.append(Wire())
                sent.totals.append(one.sum(values[comm.rank]))
        return sent

    return run_in_threads(SILOS, rank)


def plain_words(bits: RingBits) -> list[NDArray[Any]]:
    """What would go out without masks."""
    return [
        scaled_words(x, bits, SILOS, 1 / SILOS, 1 / SILOS, RANGE).astype(ring_dtype(bits)) for x in updates()
    ]


def chi_squares(words: NDArray[Any]) -> list[float]:
    """Of the bytes at each place in a word against the uniform distribution."""
    columns = words.reshape(-1, 1).view(np.uint8).T
    counts = [np.bincount(column, minlength=256) for column in columns]
    return [float(((one - SIZE / 256) ** 2).sum() / (SIZE / 256)) for one in counts]


def correlation(left: NDArray[Any], right: NDArray[Any]) -> float:
    signed = [words.view(f"i{words.itemsize}").astype(np.float64) for words in (left, right)]
    return float(np.corrcoef(*signed)[0, 1])


@pytest.mark.covering(0)
@each_ring
@each_way
def test_words_are_uniform_and_know_nothing_of_the_update(bits: RingBits, shared: bool) -> None:
    for sent, plain in zip(run(bits, shared, sums=1), plain_words(bits), strict=True):
        assert max(chi_squares(plain)) > 10 * HIGHEST
        words = sent.words(1, bits)
        assert all(LOWEST < one < HIGHEST for one in chi_squares(words))
        assert abs(correlation(words, plain)) < MOST_CORRELATION
        assert abs(correlation(words[1:], words[:-1])) < MOST_CORRELATION


@pytest.mark.covering(0)
@each_ring
@each_way
def test_the_same_vectors_go_out_as_other_words_in_every_round_and_run(bits: RingBits, shared: bool) -> None:
    one_run, other_run = run(bits, shared), run(bits, shared, sums=1)
    for sent, other in zip(one_run, other_run, strict=True):
        for total in (sent.totals[1], other.totals[0]):
            np.testing.assert_array_equal(total, sent.totals[0])
        first, second, third = sent.words(1, bits), sent.words(2, bits), other.words(1, bits)
        for left, right in ((first, second), (first, third), (second, third)):
            assert all(LOWEST < one < HIGHEST for one in chi_squares(left - right))
        seen = [set(wire.messages) - {b"", FORM} for wire in (*sent.sums[1:], *other.sums[1:])]
        assert all(seen)
        assert sum(map(len, seen)) == len(set().union(*seen))


@each_way
def test_the_words_of_an_update_lie_nowhere_in_the_clear(shared: bool) -> None:
    for sent, plain in zip(run(16, shared), plain_words(16), strict=True):
        runs = [plain[at : at + 64].tobytes() for at in range(0, SIZE, SIZE // 16)]
        for wire in sent.sums:
            for given in (*(row.tobytes() for row in wire.rows), *wire.messages):
                assert not any(part in given for part in runs)
