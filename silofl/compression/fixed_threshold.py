"""Threshold: the values that are no smaller than a fixed one."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from silofl.compression._packets import pack_sparse, unpack_sparse
from silofl.compression.base import Draw, PacketCodec
from silofl.constrained import PositiveFloat
from silofl.types import Vector


@final
@dataclass(frozen=True)
class FixedThreshold(PacketCodec):
    """Sparsification by a threshold (Strom 2015; Sahu et al. 2021, "Rethinking gradient sparsification").

    Values of at least that magnitude are sent, as many as there are, in the form of `top_k`. Meant for
    `compress.error_feedback`.
    """

    threshold: PositiveFloat = 0.01
    """Least magnitude that is sent."""

    unbiased = False
    paper = "Strom 2015; Sahu et al. 2021"

    def pack(self, values: Vector, draw: Draw) -> bytes:
        """See `PacketCodec`."""
        places = np.flatnonzero(np.abs(values) >= self.threshold)
        return pack_sparse(places, values[places])

    def unpack(self, packet: bytes, length: int, dtype: np.dtype[Any]) -> Vector:
        """See `PacketCodec`."""
        return unpack_sparse(packet, length, dtype)
