"""Stochastic rounding of values to whole numbers, on which discrete noise is exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from silofl.privacy.grid import Grid
from silofl.transforms.base import SecretStreams, Slice, Values
from silofl_kernels import dequantize, quantize


@final
@dataclass(frozen=True)
class IntegerGrid:
    """Values as integers in units of `grid.step`, rounded up or down by coins that do not depend on them."""

    grid: Grid
    keys: SecretStreams

    linear: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True
    needs_fingerprint: ClassVar[bool] = False

    def encode(self, values: Values, place: Slice, out: Values) -> Values:
        """See `Transform`: uintB (k,) of float32 or float64 (k,), in float64 up to the rounding."""
        wide = values if out.dtype.itemsize == 4 else values.astype(np.float64, copy=False)
        coins = self.keys.stream("rounding", place.round_number, place.attempt)
        scale = 1.0 / self.grid.step
        quantize(wide, out, scale=scale, limit=self.grid.limit, first=place.position, rounding=coins)
        return out

    def decode(self, total: Values, place: Slice) -> Values:
        """See `Transform`: float64 (k,) of uintB (k,)."""
        values = np.empty(total.size)
        dequantize(total, values, step=self.grid.step)
        return values
