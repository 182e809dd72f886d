"""bfloat16: the upper half of each float32."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from silofl.compression._packets import from_bfloat16, to_bfloat16
from silofl.compression.base import Draw, PacketCodec
from silofl.types import Vector


@final
@dataclass(frozen=True)
class BFloat16(PacketCodec):
    """Updates in bfloat16, rounded to nearest: two bytes a value, and no range to agree on."""

    unbiased = False

    def pack(self, values: Vector, draw: Draw) -> bytes:
        """See `PacketCodec`."""
        return to_bfloat16(values).astype("<u2").tobytes()

    def unpack(self, packet: bytes, length: int, dtype: np.dtype[Any]) -> Vector:
        """See `PacketCodec`."""
        if len(packet) != 2 * length:
            raise ValueError(f"{len(packet)} bytes of {length} values")
        return from_bfloat16(np.frombuffer(packet, "<u2"), dtype)
