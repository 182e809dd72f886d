"""EDEN and DRIVE: values turned at random, in few bits by the best levels for normal numbers, and a scale."""

import functools
import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from silofl.compression.base import KEY_BYTES, Draw, PacketCodec
from silofl.constrained import CodeBits
from silofl.types import Vector

LLOYD_STEPS = 2000
"""After which levels of up to four bits stand still, to 1e-9."""


@final
@dataclass(frozen=True)
class EDEN(PacketCodec):
    """EDEN (Vargaftik et al. 2022); with one bit DRIVE (Vargaftik et al. 2021).

    A vector is turned by a random rotation of the silo's own, after which its coordinates are about normal,
    and each becomes the next of 2^b levels (Lloyd 1982; Max 1960). The scale is |x|^2 / <Rx, Q(Rx)>, with
    which the vector is right on average as far as Hadamard rotations are uniform ones; with
    `compress.error_feedback` it is <Rx, Q(Rx)> / |Q(Rx)|^2, which loses least.
    """

    code_bits: CodeBits = 4
    """b: bits of each value, 1 to 4."""

    unbiased = False  # of uniform rotations it is; of these nearly
    paper = "Vargaftik et al. 2022"

    def pack(self, values: Vector, draw: Draw) -> bytes:
        """See `PacketCodec`: the rotation's key, the scale in float32, and the codes."""
        from silofl_kernels import Stream, pack_bits, packed_size, rotate  # with a compiler

        turned, levels = values.astype(np.float64), lloyd_max(self.code_bits)
        rotate(turned, Stream("aes-128-ctr", draw.key))
        size = float(np.linalg.norm(turned)) / math.sqrt(max(len(turned), 1))
        between = (levels[1:] + levels[:-1]) / 2
        codes = np.searchsorted(between, turned / size if size else turned).astype(np.uint8)
        nearest = levels[codes]
        inner = float(np.dot(turned, nearest))
        if not inner:
            scale = 0.0
        elif draw.keeps_error:
            scale = inner / float(np.dot(nearest, nearest))
        else:
            scale = float(np.dot(turned, turned)) / inner
        out = np.empty(packed_size(len(codes), self.code_bits), np.uint8)
        pack_bits(codes, out, bits=self.code_bits)
        return draw.key + np.array(min(scale, 3.4e38), "<f4").tobytes() + out.tobytes()

    def unpack(self, packet: bytes, length: int, dtype: np.dtype[Any]) -> Vector:
        """See `PacketCodec`."""
        from silofl_kernels import Stream, packed_size, unpack_bits, unrotate

        head = KEY_BYTES + 4
        if len(packet) != head + packed_size(length, self.code_bits):
            raise ValueError(f"{len(packet)} bytes of {length} values")
        scale = float(np.frombuffer(packet[KEY_BYTES:head], "<f4")[0])
        if not math.isfinite(scale):
            raise ValueError("a scale that is not finite")
        codes = np.empty(length, np.uint8)
        unpack_bits(np.frombuffer(packet[head:], np.uint8).copy(), codes, bits=self.code_bits)
        turned = lloyd_max(self.code_bits)[codes] * scale
        unrotate(turned, Stream("aes-128-ctr", packet[:KEY_BYTES]))
        limit = float(np.finfo(dtype).max)
        return np.asarray(np.clip(turned, -limit, limit), dtype)


@functools.cache
def lloyd_max(bits: int) -> NDArray[np.float64]:
    """The 2^bits levels with the least mean squared error for a standard normal number, ascending."""
    levels = np.linspace(-2, 2, 1 << bits) if bits > 1 else np.array([-1.0, 1.0])
    for _ in range(LLOYD_STEPS):
        edges = [-math.inf, *((levels[1:] + levels[:-1]) / 2), math.inf]
        density = [math.exp(-edge * edge / 2) / math.sqrt(2 * math.pi) for edge in edges]
        below = [(1 + math.erf(edge / math.sqrt(2))) / 2 for edge in edges]
        levels = np.array(
            [(density[k] - density[k + 1]) / (below[k + 1] - below[k]) for k in range(len(levels))]
        )
    return levels
