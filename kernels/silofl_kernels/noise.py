"""Discrete noise from secret streams: sample i is a function of the key and i, and of nothing else.

A tile of 512 samples takes 1024 little-endian words of its stream: the first 512 pick, the others settle. The
low bits of sample i's first word pick a cell of the table, its top bit the sign, the 15 bits below are the
head of a number of 110 bits, which is below the cell's limit or not and so picks one of the cell's two
values. One time in 2^15 the head does not tell: the other word is what follows it, and bits 17 to 47 of the
first are the last, so that all bits of both words count. Which cells are touched depends on the draws: the
time it takes is that of a table look-up, and not hidden from who can watch the caches of this very processor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import check_vector
from silofl_kernels.noise_table import NoiseTable
from silofl_kernels.prg import check_span
from silofl_kernels.ring import Words, ring_bits
from silofl_kernels.streams import Stream

SAMPLE_BYTES = 16
"""Bytes of a stream for each sample; half of them are made only where they settle a sample of their tile."""


def add_noise(words: Words, table: NoiseTable, stream: Stream, *, position: int = 0) -> None:
    """Add a sample to each word in the ring.

    Args:
        words: uint8, uint16 or uint32 (k,), contiguous and writable; sums wrap around.
        table: the distribution; `NOISE_ERROR` says how near it is to what it is named after.
        stream: the secret stream, used for nothing else.
        position: number of the first sample, the coordinate of words[0] in the whole vector.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(words)
    ring_bits(words)
    check_vector("words", words, writable=True)
    check_span(stream.prg, SAMPLE_BYTES * position, SAMPLE_BYTES * words.size)
    backend.add_noise(words, table, stream, position)


def draw_noise(out: NDArray[np.int32], table: NoiseTable, stream: Stream, *, position: int = 0) -> None:
    """Write a sample over each element of `out`: those that `add_noise` adds.

    Args:
        out: int32 (k,), contiguous and writable.
        table: the distribution; `NOISE_ERROR` says how near it is to what it is named after.
        stream: the secret stream, used for nothing else.
        position: number of the first sample.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(out)
    if out.dtype != np.int32:
        raise TypeError(f"samples are int32, not {out.dtype}")
    check_vector("out", out, writable=True)
    check_span(stream.prg, SAMPLE_BYTES * position, SAMPLE_BYTES * out.size)
    backend.draw_noise(out, table, stream, position)
