"""Random rotation: no coordinate stands out, so that small rings hold vectors of a bounded norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from silofl.transforms.base import Slice, Values
from silofl_kernels import Stream, rotate, unrotate


@final
@dataclass(frozen=True)
class Rotation:
    """Randomized Hadamard rotation of each slice (Kairouz et al. 2021, section 4), the same on every silo."""

    stream: Stream
    """Decides the signs; no secret."""

    linear: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True
    needs_fingerprint: ClassVar[bool] = False

    def encode(self, values: Values, place: Slice, out: Values) -> Values:
        """See `Transform`: float64 (k,)."""
        turned = values.astype(np.float64)
        rotate(turned, self.stream)
        return turned

    def decode(self, total: Values, place: Slice) -> Values:
        """See `Transform`: float64 (k,)."""
        turned = total.astype(np.float64, copy=False)
        unrotate(turned, self.stream)
        return turned
