"""Top-k: the values of largest magnitude."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from silofl.compression._packets import pack_sparse, unpack_sparse
from silofl.compression.base import Draw, PacketCodec
from silofl.constrained import Fraction
from silofl.types import Vector


@final
@dataclass(frozen=True)
class TopK(PacketCodec):
    """Top-k sparsification (Aji & Heafield 2017; Stich et al. 2018, "Sparsified SGD with Memory").

    Of each vector k = `ratio` d values are sent, as bfloat16, each with its distance to the one before, two
    bytes as a rule: 4 k bytes. Each silo has places of its own. Meant for `compress.error_feedback`.
    """

    ratio: Fraction = 0.01
    """Which part of the values is sent."""

    unbiased = False
    paper = "Aji & Heafield 2017; Stich et al. 2018"

    def pack(self, values: Vector, draw: Draw) -> bytes:
        """See `PacketCodec`."""
        from silofl_kernels import top_k  # with its compiler, which a configuration does not need

        count = min(len(values), max(1, round(self.ratio * len(values))))
        places, largest = np.empty(count, np.uint64), np.empty(count, values.dtype)
        top_k(values, places, largest)
        return pack_sparse(places, largest)

    def unpack(self, packet: bytes, length: int, dtype: np.dtype[Any]) -> Vector:
        """See `PacketCodec`."""
        return unpack_sparse(packet, length, dtype)
