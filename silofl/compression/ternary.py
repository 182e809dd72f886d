"""Ternary: plus or minus the largest value of a bucket, or zero."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from silofl.compression._coded import pack_coded, scales_of, uniform, unpack_coded
from silofl.compression.base import Draw, PacketCodec
from silofl.constrained import PositiveInt
from silofl.types import Vector


@final
@dataclass(frozen=True)
class Ternary(PacketCodec):
    """TernGrad (Wen et al. 2017, equation 3): m, 0 or -m, where m is the largest magnitude of a bucket.

    A value x becomes +-m with probability |x| / m. With `compress.error_feedback` rounding is to nearest.
    """

    bucket: PositiveInt = 2048
    """Values that have a largest one together."""

    paper = "Wen et al. 2017"

    def pack(self, values: Vector, draw: Draw) -> bytes:
        """See `PacketCodec`."""
        scales = scales_of(values, self.bucket, np.inf)
        per_value = np.repeat(scales.astype(np.float64), self.bucket)[: len(values)]
        whole = np.divide(values, per_value, out=np.zeros(len(values)), where=per_value > 0)
        up = 0.5 if draw.keeps_error else uniform(len(values), draw)
        return pack_coded(scales, np.clip(np.floor(whole + up), -1, 1).astype(np.int8), 2)

    def unpack(self, packet: bytes, length: int, dtype: np.dtype[Any]) -> Vector:
        """See `PacketCodec`."""
        return unpack_coded(packet, length, self.bucket, 2, dtype)
