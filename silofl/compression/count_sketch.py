"""Count sketch: few sums of all values, of which the largest values of a mean can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from silofl.compression.base import Draw, SketchCodec
from silofl.constrained import Fraction
from silofl.types import Vector

if TYPE_CHECKING:
    from silofl_kernels import CountSketch as Way


@final
@dataclass(frozen=True)
class CountSketch(SketchCodec):
    """FetchSGD (Rothchild et al. 2020, algorithm 1), of updates in the place of gradients.

    A silo sends a count sketch of its update (Charikar et al. 2002): `rows` rows of sums, in each of which
    every value is added, with a sign, to one sum. The step is what the mean of sketches tells of the `kept`
    largest values. With `compress.error_feedback` a sum that tells none of them stays for the next round, as
    in the paper's section 5: no silo's own, but the same with all, so that it is in every checkpoint, and a
    silo that comes back is given it. Without, buckets are drawn anew in each round.
    """

    ratio: Fraction = 0.2
    """How many sums there are, in all rows, as a part of the values' number."""
    rows: Literal[1, 3, 5] = 5
    """In how many sums each value is, the median of which tells it."""
    kept: Fraction = 0.02
    """Which part of the values a step has; at most `ratio` / `rows`."""

    paper = "Rothchild et al. 2020"

    def size(self, length: int) -> int:
        """See `Codec`."""
        return self.rows * max(1, int(self.ratio * length) // self.rows)

    def refusal(self) -> str | None:
        """See `Codec`."""
        if self.kept * self.rows <= self.ratio:
            return None
        return (
            f"compress.kept = {self.kept:g} is more than compress.ratio / compress.rows = {self.ratio:g} / "
            f"{self.rows}, so that a step has more values than a row has sums to tell them: lower it to "
            f"{self.ratio / self.rows:g}, or raise compress.ratio"
        )

    def unfit(self, length: int) -> str | None:
        """See `SketchCodec`."""
        if int(self.ratio * length) >= self.rows:
            return None
        return (
            f"compress.ratio = {self.ratio:g} of {length} values is less than a sum for each of "
            f"compress.rows = {self.rows}: raise compress.ratio, lower compress.rows, or remove compress.name"
        )

    def encode(self, values: Vector, draw: Draw) -> Vector:
        """See `Codec`."""
        from silofl_kernels import sketch  # with a compiler, which a configuration does not need

        sums = np.empty(self.size(len(values)), values.dtype)
        sketch(values, sums, self._way(len(values), draw))
        return sums

    def decode(self, sent: Vector, draw: Draw, length: int) -> Vector:
        """See `SketchCodec`: the same bits on every processor."""
        from silofl_kernels import top_k, unsketch

        estimates = np.empty(length, sent.dtype)
        unsketch(sent, estimates, self._way(length, draw))
        count = min(length, max(1, round(self.kept * length)))
        places, values = np.empty(count, np.uint64), np.empty(count, sent.dtype)
        top_k(estimates, places, values)
        estimates.fill(0)
        estimates[places] = values
        return estimates

    def left(self, sent: Vector, step: Vector, draw: Draw) -> Vector:
        """See `SketchCodec`: less those sums that have told the step."""
        return np.where(self.encode(step, draw) == 0, sent, sent.dtype.type(0))

    def _way(self, length: int, draw: Draw) -> Way:
        from silofl_kernels import CountSketch as Way
        from silofl_kernels import Stream

        return Way(Stream("aes-128-ctr", draw.key), self.rows, self.size(length) // self.rows)
