"""From a contribution to ring words and back: layout, formats, weights, and the tail that rides along."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.formats import NO_RANGES, Encoded, NumberFormat, Ranges, Scaled, format_of
from silofl.aggregation.layout import Block, Layout
from silofl.aggregation.ranges import decode_ranges, encode_exponents
from silofl.aggregation.shards import Shards
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.crypto.capacity import Limbs, decode_weight, encode_weight, weight_limbs
from silofl.errors import DataError
from silofl.types import Contribution, RingBits
from silofl_kernels import KEY_BYTES, ExactFormat, MaskSet, Prg, Stream, max_abs, ring_dtype

Words = NDArray[np.unsignedinteger[Any]]
Magnitudes = Mapping[str, NDArray[np.float64]]
"""By vector: the largest magnitude of each tensor, float64 (m,); infinite where a value is not finite."""

COARSE = 0.01
"""Relative error of a tensor's encoding above which it is reported."""


@dataclass(frozen=True)
class EncodingQuality:
    """How well a round's values were encoded; the same on every rank.

    Attributes:
        clipped_silos: silos with values beyond a configured range.
        error: mean over silos of the relative L2 error that rounding made of their vectors.
        coarse: tensors of which rounding took more than 1 % at some silo, and at how many.
    """

    clipped_silos: int = 0
    error: float = 0.0
    coarse: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Tail:
    """What the tail of a sum tells.

    Attributes:
        weights: sum of the p_i, this sum's part of all sample weights.
        round_weight: sum of the silos' `Contribution.weight`.
        scalars: by name, the sum of p_i times the silo's number.
        quality: how well vectors were encoded.
    """

    weights: float
    round_weight: float
    scalars: Mapping[str, float]
    quality: EncodingQuality


def measure(contribution: Contribution, spec: AggregationSpec) -> Magnitudes:
    """The largest magnitude of each tensor of the vectors that are rounded or weighed; not collective."""
    return {
        one.name: max_abs(contribution.vectors[one.name], one.tensor_ends)
        for one in spec.vectors
        if one.format != "words"
    }


def first_nonfinite(magnitudes: Magnitudes, spec: AggregationSpec) -> str | None:
    """The first tensor that has a value which is not finite; None if all are."""
    for one in spec.vectors:
        found = np.flatnonzero(~np.isfinite(magnitudes.get(one.name, np.zeros(1))))
        if found.size:
            return one.tensor_names[int(found[0])]
    return None


class Wire:
    """The form that contributions have on the wire of a secure sum, for one set of silos.

    Args:
        spec: the vectors and scalars.
        bits: of the ring.
        shards: who serves.
        stochastic: whether rounding is stochastic, by a stream of (seed, silo, round).
    """

    def __init__(self, spec: AggregationSpec, bits: RingBits, shards: Shards, *, stochastic: bool) -> None:
        self.spec, self._bits, self._stochastic = spec, bits, stochastic
        self._silos = len(shards.members)
        self.formats: dict[str, NumberFormat] = {
            one.name: format_of(one, bits, self._silos, stochastic=stochastic) for one in spec.vectors
        }
        widths = {name: kind.width for name, kind in self.formats.items()}
        self.layout = Layout(spec.vectors, widths, shards)
        self._ranged = [one for one in spec.vectors if self.formats[one.name].ranges]
        self._weights, self._flag = weight_limbs(bits, self._silos), Limbs(bits, self._silos, 1)
        self._numbers = ExactFormat(bits, self._silos)

    @property
    def tail_words(self) -> int:
        """Words of the tail."""
        flags = 2 + sum(self.formats[one.name].ranges for one in self.spec.vectors)
        numbers: int = self._count * self._numbers.words
        return self._weights.words + flags * self._flag.words + numbers

    @property
    def _count(self) -> int:
        """Exact numbers in the tail: the encoding's error, the weight of the round, and scalars."""
        return 2 + len(self.spec.scalars)

    def exponents(self, magnitudes: Magnitudes, weight: float) -> Words:
        """What this silo adds to the agreement on ranges; empty where nothing has to be agreed."""
        own = [magnitudes[one.name] * (weight if one.weighting == "round" else 1.0) for one in self._ranged]
        return encode_exponents(np.concatenate([np.empty(0), *own]), ring_dtype(self._bits))

    def ranges(self, sums: Words) -> dict[str, Ranges]:
        """Each vector's agreed ranges, float64 (m,), from the sums of all silos' `exponents`."""
        names = tuple(name for one in self._ranged for name in one.tensor_names)
        found = decode_ranges(sums, names) if names else NO_RANGES
        lengths = np.cumsum([len(one.tensor_ends) for one in self._ranged])[:-1]
        return {one.name: part for one, part in zip(self._ranged, np.split(found, lengths), strict=True)}

    def fixed_ranges(self, value_range: float) -> dict[str, Ranges]:
        """The same range for every tensor, as configured."""
        return {one.name: np.full(len(one.tensor_ends), value_range) for one in self._ranged}

    def encode(
        self,
        contribution: Contribution,
        share: float,
        ranges: Mapping[str, Ranges],
        rounding: Callable[[str], Stream | None] = lambda name: None,
    ) -> EncodedContribution:
        """One silo's contribution, whose samples are `share` of all silos' together."""
        encoded = {}
        for one in self.spec.vectors:
            part = share if one.weighting == "samples" else 1.0 / self._silos
            weight = contribution.weight if one.weighting == "round" else 1.0
            encoded[one.name] = self.formats[one.name].encode(
                contribution.vectors[one.name],
                part * weight,
                part,
                ranges.get(one.name, NO_RANGES),
                rounding(one.name),
            )
        return EncodedContribution(self, contribution, share, encoded)

    def rounding(self, prg: Prg, silo: int, round_number: int) -> Callable[[str], Stream | None]:
        """The streams that round a silo's vectors stochastically; none where rounding is to nearest."""

        def stream(name: str) -> Stream | None:
            if not self._stochastic:
                return None
            place = struct.pack(">QQQ", self.spec.seed, silo, round_number) + name.encode()
            return Stream(prg, hashlib.sha256(b"silofl rounding" + place).digest()[: KEY_BYTES[prg]])

        return stream

    def tail(self, encoded: EncodedContribution) -> Words:
        """What rides along with one silo's vectors; call it when all of them were written."""
        parts = encoded.parts
        met = [sum(getattr(one, kind) for one in parts.values()) for kind in ("clipped", "nonfinite")]
        errors = {one.name: parts[one.name].errors() for one in self._ranged}
        coarse = [error > COARSE for one in self._ranged for error in errors[one.name]]
        numbers = self._tail_numbers(encoded, max((e.max() for e in errors.values()), default=0.0))
        words = np.empty(self._count * self._numbers.words, ring_dtype(self._bits))
        met[1] += self._numbers.encode(numbers, words)
        flags = [self._flag.encode(int(bool(one))) for one in (*met, *coarse)]
        return np.concatenate([encode_weight(encoded.share, self._weights), *flags, words])

    def _tail_numbers(self, encoded: EncodedContribution, error: float) -> NDArray[np.float64]:
        given = encoded.contribution
        scalars = [encoded.share * given.scalars[name] for name in self.spec.scalars]
        return np.array([error, given.weight, *scalars], np.float64)

    def read_tail(self, sums: Words) -> Tail:
        """The tail of the sum. DataError where a silo's values are not finite."""
        at, each = self._weights.words, self._flag.words
        names = [name for one in self._ranged for name in one.tensor_names]
        flags = [self._flag.decode(sums[at + k * each :][:each]) for k in range(2 + len(names))]
        if flags[1]:
            raise DataError(
                f"{flags[1]} of the silos have values that are not finite; the sum was not opened", rank=0
            )
        numbers = np.empty(self._count)
        self._numbers.decode(sums[at + len(flags) * each :], numbers)
        coarse = {name: count for name, count in zip(names, flags[2:], strict=True) if count}
        quality = EncodingQuality(flags[0], float(numbers[0]) / self._silos, coarse)
        scalars = dict(zip(self.spec.scalars, map(float, numbers[2:]), strict=True))
        return Tail(decode_weight(sums[:at], self._weights), float(numbers[1]), scalars, quality)

    def total_weight(self, one: VectorSpec, tail: Tail, survivors: int) -> float:
        """What a vector's sum is divided by to be the weighted mean over the silos in it."""
        kinds = {"samples": tail.weights, "uniform": survivors / self._silos}
        return kinds.get(one.weighting, tail.round_weight / self._silos)

    def step(self, name: str, ranges: Mapping[str, Ranges]) -> float:
        """Value of one ring unit of a scaled vector with a single range."""
        form = self.formats[name]
        assert isinstance(form, Scaled), f"{name} has one word a value"
        return float(form.steps(ranges[name])[0])

    def decode(
        self, block: Block, masked: Words, masks: MaskSet, ranges: Mapping[str, Ranges], total: float
    ) -> Any:
        """A block's mean, of the vectors' type, from its masked sum; raw words of a vector of words."""
        one = self.spec.vector(block.name)
        dtype = ring_dtype(self._bits) if one.format == "words" else self.spec.dtype
        out = np.empty(block.last - block.first, dtype)
        self.formats[block.name].decode(block, masked, masks, ranges.get(block.name, NO_RANGES), total, out)
        return out


@dataclass(frozen=True)
class EncodedContribution:
    """One silo's contribution, ready to be written to the wire piece by piece."""

    wire: Wire
    contribution: Contribution
    share: float
    parts: Mapping[str, Encoded]

    def fill(self, first: int, last: int, out: Words, masks: MaskSet) -> None:
        """Write masked wire words [first, last) over `out`."""
        for block in self.wire.layout.within(first, last):
            self.parts[block.name].write(block, out[block.start - first : block.stop - first], masks)
