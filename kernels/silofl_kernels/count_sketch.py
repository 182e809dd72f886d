"""Count sketches: few sums of a long vector that tell its largest values (Charikar et al. 2002).

A sketch has `rows` rows of `columns` sums each. In every row a value is added, with a sign, to one sum, its
bucket; the estimate of the value is the median over the rows of the signed sums that it is in. Sketches are
linear: the sum of sketches is the sketch of the sum.

Buckets are drawn for m = min(512, columns) neighbours at a time: they lie side by side, from a bucket on that
is drawn for the m in each row, and behind the last bucket of a row comes its first. Of values that are not of
the same m any two meet in a row with probability 1/columns, as with a bucket drawn for each, whatever the
other rows; two of the same m never do. So nothing is kept of a value's place, and memory is read in runs.

Word n is the n-th of SplitMix64 (Steele, Lea and Flood 2014), from a seed that a stream gives. Neighbours b,
from b m on, have in row r the words from (rows b + r) (1 + ceil(m / 64)) on. The upper 32 bits of the first,
as a fraction of `columns`, are the bucket of the first value; of the others bit j mod 64 of the one numbered
j / 64, set, makes the sign of value j negative. No sum is formed in an order that depends on the processor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import Floats, check_floats
from silofl_kernels.streams import Stream, keystream

ROWS = (1, 3, 5)
"""Rows that there is a median of."""
TOGETHER = 512
"""Neighbours whose buckets lie side by side, where there are as many."""


@dataclass(frozen=True)
class CountSketch:
    """Where a vector's values are added up, and with which signs.

    Args:
        stream: public or secret; all who add sketches up have it. Its first eight bytes are the seed.
        rows: 1, 3 or 5.
        columns: sums in each row, 1 to 2^32 - 1.

    Raises:
        ValueError: an argument is not as described.
    """

    stream: Stream
    rows: int
    columns: int
    seed: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rows not in ROWS or not 1 <= self.columns < 1 << 32:
            raise ValueError(f"a sketch of {self.rows} rows of {self.columns} sums")
        words = np.zeros(8, np.uint8)
        keystream(self.stream, words)
        object.__setattr__(self, "seed", int.from_bytes(words.tobytes(), "little"))

    @property
    def size(self) -> int:
        """Sums in all."""
        return self.rows * self.columns

    @property
    def together(self) -> int:
        """Neighbours whose buckets lie side by side."""
        return min(TOGETHER, self.columns)


def sketch(x: Floats, out: Floats, way: CountSketch) -> None:
    """Write the sketch of `x` over `out`; each sum is formed in its dtype, in the order of the values.

    Args:
        x: float32 or float64 (d,), contiguous. Not changed.
        out: (way.size,) of the dtype of x, contiguous and writable; row after row.
        way: buckets and signs.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(x, out)
    check_floats("x", x)
    check_floats("out", out, writable=True)
    _check(out, x, way)
    backend.sketch(x, out, way)


def unsketch(sums: Floats, out: Floats, way: CountSketch) -> None:
    """Write the estimates of all values of a sketch over `out`.

    Args:
        sums: float32 or float64 (way.size,), contiguous: a sketch, or a sum of such. Not changed.
        out: (d,) of the dtype of `sums`, contiguous and writable.
        way: buckets and signs, as `sketch` had them.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(sums, out)
    check_floats("sums", sums)
    check_floats("out", out, writable=True)
    _check(sums, out, way)
    backend.unsketch(sums, out, way)


def _check(sums: Floats, values: Floats, way: CountSketch) -> None:
    if sums.dtype != values.dtype:
        raise TypeError(f"sums are {sums.dtype}, the vector is {values.dtype}")
    if sums.size != way.size:
        raise ValueError(f"{sums.size} sums for {way.rows} rows of {way.columns}")
