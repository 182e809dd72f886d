"""What all silos must have in common before they open a sum, besides the words of it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from silofl.aggregation.formats.base import Ranges
from silofl.aggregation.spec import AggregationSpec
from silofl.crypto.kdf import digest, pack_silos
from silofl.types import Vector


@dataclass(frozen=True, eq=False)
class Common:
    """What contributions were made from, as this silo has it; the same on all, or the sum stays closed.

    Attributes:
        vectors: the global ones, contiguous; of the same bytes on every silo.
        terms: what else decides them, such as clipping and noise, in a form of its own.
        absent: silos that help to open the sum and bring nothing to it, ascending: their contributions are
            zeros and weigh nothing.
    """

    vectors: Sequence[Vector] = ()
    terms: bytes = b""
    absent: tuple[int, ...] = ()

    def without_absent(self, silos: tuple[int, ...]) -> tuple[int, ...]:
        """Which of `silos` bring something."""
        return tuple(silo for silo in silos if silo not in self.absent)

    def digest(self, spec_digest: bytes, round_number: int) -> bytes:
        """32 bytes of the terms of one round's sum."""
        return digest("terms", spec_digest, round_number.to_bytes(8), self.terms, pack_silos(self.absent))


NOTHING_IN_COMMON = Common()


def spec_digest(spec: AggregationSpec, value_range: float | None, *, stochastic: bool) -> bytes:
    """32 bytes of what is added up, and how it is rounded; nothing of this silo's own."""
    vectors = [
        [
            one.name,
            one.size,
            one.format,
            one.weighting,
            one.tensor_names,
            one.tensor_ends.tolist(),
            one.bits,
            one.keeps_error,
        ]
        for one in spec.vectors
    ]
    rounding = [None if value_range is None else value_range.hex(), stochastic, spec.seed]
    ranks = [spec.silos, spec.coordinators, spec.replica_count, spec.recompute]
    whole = [vectors, str(spec.dtype), ranks, spec.scalars, spec.rows, rounding]
    if spec.bucketing is not None:
        ways = spec.bucketing
        whole.append([ways.size, ways.fewest, ways.liars, ways.redraw])
    return digest("what is added up", json.dumps(whole).encode())


def total_digest(total: float) -> bytes:
    """32 bytes of what sample counts are divided by."""
    return digest("total of sample counts", struct.pack(">d", total))


def vectors_digest(vectors: Sequence[Vector]) -> bytes:
    """32 bytes of contiguous vectors (k,): SHA-256, for keys of this round were known when they were made."""
    return digest("made from", *(hashlib.sha256(vector.data).digest() for vector in vectors))


def ranges_digest(ranges: Mapping[str, Ranges]) -> bytes:
    """32 bytes of each vector's ranges, float64 (m,)."""
    named = (part for name, values in ranges.items() for part in (name.encode(), values.tobytes()))
    return digest("ranges", *named)
