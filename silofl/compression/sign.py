"""Sign: one bit a value, by majority vote or scaled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from silofl.compression._coded import buckets, pack_coded, unpack_coded
from silofl.compression.base import Draw, PacketCodec
from silofl.types import Vector


@final
@dataclass(frozen=True)
class Sign(PacketCodec):
    """signSGD (Bernstein et al. 2018): the sign of each value, and one scale, the mean magnitude.

    By majority `vote` (algorithm 1) the update is the sign that most silos have, each by its part of the
    mean, times the mean scale. Without, it is the mean of scaled signs (Karimireddy et al. 2019,
    EF-signSGD), which is meant for `compress.error_feedback`. Zero counts as positive.
    """

    vote: bool = True
    """Whether the most frequent sign is taken."""

    unbiased = False
    paper = "Bernstein et al. 2018; Karimireddy et al. 2019"

    def pack(self, values: Vector, draw: Draw) -> bytes:
        """See `PacketCodec`."""
        scale = min(float(np.abs(values, dtype=np.float64).sum()) / max(len(values), 1), 3.4e38)
        codes = np.where(values < 0, -1, 1).astype(np.int8)
        return pack_coded(np.full(buckets(len(values), max(len(values), 1)), scale), codes, 1)

    def unpack(self, packet: bytes, length: int, dtype: np.dtype[Any]) -> Vector:
        """See `PacketCodec`."""
        return unpack_coded(packet, length, max(length, 1), 1, dtype)

    def joined(self, rows: Sequence[Vector], shares: Sequence[float]) -> Vector:
        """See `PacketCodec`."""
        if not self.vote:
            return super().joined(rows, shares)
        votes = super().joined([np.where(np.signbit(row), -1.0, 1.0) for row in rows], shares)
        scale = sum(share * float(abs(row[0])) for row, share in zip(rows, shares, strict=True) if len(row))
        return np.asarray(np.sign(votes) * scale, rows[0].dtype)
