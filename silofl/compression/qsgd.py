"""QSGD: few levels of each bucket's norm, by stochastic rounding."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from silofl.compression._coded import pack_coded, scales_of, uniform, unpack_coded
from silofl.compression.base import Draw, PacketCodec
from silofl.constrained import PositiveInt, QuantizationLevels
from silofl.types import Vector


@final
@dataclass(frozen=True)
class QSGD(PacketCodec):
    """QSGD (Alistarh et al. 2017, section 3): |x| over its bucket's Euclidean norm, in s levels.

    Codes have a fixed number of bits, without the paper's Elias code. With `compress.error_feedback` rounding
    is to nearest, and levels are of the bucket's largest magnitude: of the norm, values of about one
    magnitude would all be zeros, in every round.
    """

    levels: QuantizationLevels = 7
    """s: from 0 to the norm, on both sides: codes have enough bits for 2 s + 1."""
    bucket: PositiveInt = 512
    """Values that have a norm together."""

    paper = "Alistarh et al. 2017"

    @property
    def _bits(self) -> int:
        return (2 * self.levels).bit_length()

    def pack(self, values: Vector, draw: Draw) -> bytes:
        """See `PacketCodec`."""
        order = np.inf if draw.keeps_error else 2
        scales = scales_of(values, self.bucket, order) / np.float32(self.levels)
        per_value = np.repeat(scales.astype(np.float64), self.bucket)[: len(values)]
        whole = np.divide(values, per_value, out=np.zeros(len(values)), where=per_value > 0)
        up = 0.5 if draw.keeps_error else uniform(len(values), draw)
        codes = np.clip(np.floor(whole + up), -self.levels, self.levels).astype(np.int8)
        return pack_coded(scales, codes, self._bits)

    def unpack(self, packet: bytes, length: int, dtype: np.dtype[Any]) -> Vector:
        """See `PacketCodec`."""
        return unpack_coded(packet, length, self.bucket, self._bits, dtype)
