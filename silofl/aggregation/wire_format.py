"""From a contribution to ring words and back: layout, formats, weights, and the tail that rides along.

Each named vector has a number format, such as `formats/scaled.py`, and lies slice by slice on one wire
(`layout.py`), of which `reduce_scatter.py` has any part written. Behind it is the tail (`tail.py`): weights,
flags and scalars.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.formats import format_of
from silofl.aggregation.formats.base import NO_RANGES, Encoded, NumberFormat, Ranges, Weight
from silofl.aggregation.formats.packed import UNMASKED, Packed
from silofl.aggregation.formats.scaled import Scaled, decode_ranges, encode_exponents
from silofl.aggregation.layout import Block, Layout
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.shards import Shards
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.tail import COARSE, OwnTail, Tail, TailFormat, valid_weight
from silofl.types import Contribution, RingBits, Vector, Words
from silofl_kernels import KEY_BYTES, MaskSet, Prg, Stream, ring_dtype

FAR = 64.0
"""How many times smaller than a range all values of a tensor are where it counts as far too wide for them."""

GONE = 2.0**40
"""How many times smaller they are where none of them is more than zero in any ring. Squares of such numbers
are too small for float32, so that what the kernels add up of them is no error."""


class WireFormat:
    """The form that contributions have on the wire of a secure sum, for one set of silos.

    Args:
        spec: the vectors and scalars.
        bits: of the ring.
        shards: which member serves which slice.
        stochastic: whether rounding is stochastic, by a stream of (seed, silo, round, vector).

    Attributes:
        layout: where vectors lie.
        ranged: the vectors whose ranges are agreed on.
        tail: what rides along.

    Raises:
        ConfigError: so many silos do not fit the ring.
    """

    def __init__(self, spec: AggregationSpec, bits: RingBits, shards: Shards, *, stochastic: bool) -> None:
        self.spec, self.bits, self._stochastic = spec, bits, stochastic
        self._words, self._silos = ring_dtype(bits), max(1, len(spec.bringing(shards.members)))
        self.formats: dict[str, NumberFormat] = {
            one.name: format_of(one).of(one, bits, self._silos, stochastic=stochastic) for one in spec.vectors
        }
        widths = {name: kind.width for name, kind in self.formats.items()}
        self.layout = Layout(spec.vectors, widths, shards)
        self.ranged = [one for one in spec.vectors if self.formats[one.name].ranges]
        self._rounded = tuple(name for one in self.ranged for name in one.tensor_names)
        self._checked = [one for one in spec.vectors if not self.formats[one.name].in_words]
        checked = tuple(name for one in self._checked for name in one.tensor_names)
        self._exact = [one for one in spec.vectors if self.formats[one.name].resolution]
        exact = tuple(name for one in self._exact for name in one.tensor_names)
        self.tail = TailFormat(bits, self._silos, checked, self._rounded, exact, spec.scalars)

    def exponents(self, magnitudes: Magnitudes, weight: float) -> Words:
        """What this silo adds to the agreement on ranges, other words each time; empty if there is none."""
        return encode_exponents(self._stated(magnitudes, weight), self._words)

    def _stated(self, magnitudes: Magnitudes, weight: float) -> NDArray[np.float64]:
        """float64 (r,): the magnitudes that ranges must hold, of every rounded tensor of this silo."""
        fits = valid_weight(weight)
        own = [
            magnitudes[one.name] * (weight if one.weighting == "round" else 1.0)
            if fits or one.weighting != "round"
            else np.full(len(one.tensor_ends), np.inf)
            for one in self.ranged
        ]
        return np.concatenate([NO_RANGES, *own])

    def ranges(self, sums: Words) -> dict[str, Ranges]:
        """Each vector's agreed ranges, float64 (m,), from the sums of all silos' `exponents`."""
        found = decode_ranges(sums, self._rounded) if self._rounded else NO_RANGES
        lengths = np.cumsum([len(one.tensor_ends) for one in self.ranged])[:-1]
        return {one.name: part for one, part in zip(self.ranged, np.split(found, lengths), strict=True)}

    def levels(self, name: str, share: float) -> float:
        """How many levels a packed vector's ranges have for a silo of that part of all samples."""
        form: object = self.formats[name]
        assert isinstance(form, Packed), f"{name} has one word a value, or more"
        return form.levels(self._weight(self.spec.vector(name), self.tail.share(share), 1.0).part)

    def spread(self, name: str) -> float:
        """How many root mean squares a packed vector's ranges hold, where errors are kept."""
        form: object = self.formats[name]
        assert isinstance(form, Packed), f"{name} has one word a value, or more"
        return form.spread

    def fixed_ranges(self, value_range: float) -> dict[str, Ranges]:
        """The same range for every tensor, as configured: it bounds values times their weight."""
        return {one.name: np.full(len(one.tensor_ends), value_range) for one in self.ranged}

    def encode(
        self,
        contribution: Contribution,
        share: float,
        magnitudes: Magnitudes,
        ranges: Mapping[str, Ranges],
        rounding: Callable[[str], Stream | None] = lambda name: None,
    ) -> EncodedContribution:
        """One silo's contribution, whose samples are `share` of all silos' together; 0 where it is absent."""
        absent, share = share == 0, self.tail.share(share)
        weights = {one.name: self._weight(one, share, contribution.weight) for one in self.spec.vectors}
        parts = {
            name: self.formats[name].encode(
                contribution.vectors[name], weight, ranges.get(name, NO_RANGES), rounding(name)
            )
            for name, weight in weights.items()
        }
        unfit = {
            one.name: ~(magnitudes[one.name] * weights[one.name].factor < self.formats[one.name].largest)
            for one in self._checked
        }
        stated = self._stated(magnitudes, contribution.weight)
        whole = np.concatenate([NO_RANGES, *(ranges[one.name] for one in self.ranged)])
        told = np.concatenate([np.empty(0, np.bool_), *map(partial(self._told, weights), self.ranged)])
        far, gone = (told & (stated > 0) & (stated * times < whole) for times in (FAR, GONE))
        small = [self._faint(one, magnitudes, weights) for one in self._exact]
        faint = np.concatenate([np.empty(0, np.bool_), *small])
        own = contribution, share, parts, unfit, far, gone, faint, stated > whole / 2
        return EncodedContribution(self.layout, self.tail, *own, absent)

    def _told(self, weights: Mapping[str, Weight], one: VectorSpec) -> NDArray[np.bool_]:
        """bool (m,): tensors of which this silo tells what rounding took; see `Packed.silent`."""
        form: object = self.formats[one.name]
        silent = isinstance(form, Packed) and form.silent(weights[one.name].part)
        return np.full(len(one.tensor_ends), not silent)

    def _faint(
        self, one: VectorSpec, magnitudes: Magnitudes, weights: Mapping[str, Weight]
    ) -> NDArray[np.bool_]:
        """bool (m,): tensors of which rounding to the format's resolution may take more than `COARSE`."""
        largest = magnitudes[one.name] * weights[one.name].factor
        found: NDArray[np.bool_] = (largest > 0) & (
            largest < self.formats[one.name].resolution / (2 * COARSE)
        )
        return found

    def _weight(self, one: VectorSpec, share: float, weight: float) -> Weight:
        """What a silo's vector is multiplied by: without 1/n where nothing may be lost."""
        if one.weighting == "samples":
            return Weight(share, share)
        factor = weight if one.weighting == "round" else 1.0
        factor = factor if valid_weight(factor) else 1.0  # the tail tells
        lossless = self.formats[one.name].lossless
        return Weight(factor if lossless else factor / self._silos, 1.0 / self._silos)

    def total_weight(self, name: str, tail: Tail, survivors: int) -> float:
        """What a vector's sum is divided by to be the weighted mean over the silos in it."""
        one = self.spec.vector(name)
        if one.weighting == "samples":
            return tail.weights
        total = survivors if one.weighting == "uniform" else tail.round_weight
        return total if self.formats[name].lossless else total / self._silos

    def rounding(self, prg: Prg, silo: int, round_number: int) -> Callable[[str], Stream | None]:
        """The streams that round a silo's vectors stochastically; none where rounding is to nearest."""

        def stream(name: str) -> Stream | None:
            if not (self._stochastic or self.spec.vector(name).format == "packed"):
                return None
            place = struct.pack(">QQQ", self.spec.seed, silo, round_number) + name.encode()
            return Stream(prg, hashlib.sha256(b"silofl rounding" + place).digest()[: KEY_BYTES[prg]])

        return stream

    def step(self, name: str, ranges: Mapping[str, Ranges]) -> float:
        """Value of one ring unit of a scaled vector with a single range."""
        form: object = self.formats[name]
        assert isinstance(form, Scaled), f"{name} has one word a value"
        return float(form.steps(ranges[name])[0])

    def empty(self, name: str, count: int = 0) -> Any:
        """Room for so many decoded values of a vector: of the vectors' type, or ring words."""
        return np.empty(count, self.formats[name].dtype or self.spec.dtype)

    def decode(
        self, block: Block, masked: Words, masks: MaskSet, ranges: Mapping[str, Ranges], total: float
    ) -> Any:
        """A block's mean (k,), of the vectors' type, from its masked sum; raw words of a vector of words."""
        out = self.empty(block.name, block.last - block.first)
        self.formats[block.name].decode(block, masked, masks, ranges.get(block.name, NO_RANGES), total, out)
        return out

    def decode_whole(self, name: str, words: Words, ranges: Mapping[str, Ranges], total: float) -> Vector:
        """The mean (d,) of a vector from the unmasked sum of all its words, one slice after another."""
        out: Vector = self.empty(name, self.spec.vector(name).size)
        for index in range(len(self.layout.shards.members)):
            for block in self.layout.blocks(index):
                if block.name == name:
                    part = words[block.word : block.word + block.stop - block.start]
                    into = out[block.first : block.last]
                    self.formats[name].decode(block, part, UNMASKED, ranges.get(name, NO_RANGES), total, into)
        return out


@dataclass
class EncodedContribution:
    """One silo's contribution, ready to be written to the wire piece by piece, as often as ranks fail.

    Masks go onto the same words each time. So the tail, which tells how the vectors were encoded, is made
    once and stays: rounding errors are added up in another order when slices are cut otherwise.
    """

    layout: Layout
    format_of_tail: TailFormat
    contribution: Contribution
    share: float
    """This silo's part of all samples."""
    parts: Mapping[str, Encoded]
    unfit: Mapping[str, NDArray[np.bool_]]
    """By vector: tensors with values that have no words, as far as it is known beforehand."""
    far: NDArray[np.bool_]
    """By rounded tensor: whether all values are far below its range."""
    gone: NDArray[np.bool_]
    """By rounded tensor: whether all values are so far below it that they are zeros."""
    faint: NDArray[np.bool_]
    """By exact tensor: whether its values are about as small as the unit of its words."""
    widest: NDArray[np.bool_]
    """By rounded tensor: whether these values ask for all of its range."""
    absent: bool = False
    """Whether it is nothing, of no weight."""
    _tail: Words | None = field(default=None, init=False)

    def begin(self) -> None:
        """All words will be written, perhaps once more."""
        for part in self.parts.values():
            part.begin()

    def fill(self, first: int, last: int, out: Words, masks: MaskSet) -> None:
        """Write masked wire words [first, last) over `out`."""
        for block in self.layout.within(first, last):
            self.parts[block.name].write(block, out[block.start - first : block.stop - first], masks)

    def residuals(self) -> dict[str, Vector]:
        """By vector: what its words do not hold of the values (d,), where that is kept."""
        return {name: one.residual for name, one in self.parts.items() if one.residual is not None}

    def tail(self) -> Words:
        """What rides along with the vectors, the same each time; call it when all words were written."""
        if self._tail is None:
            self._tail = self.format_of_tail.encode(self._own_tail())
        return self._tail

    def _own_tail(self) -> OwnTail:
        given, parts = self.contribution, self.parts.values()
        unfit = [
            flags if flags.any() else flags | (self.parts[name].nonfinite > 0)
            for name, flags in self.unfit.items()
        ]
        if self.absent:
            return self._nothing(unfit)
        errors = np.concatenate([NO_RANGES, *(part.errors() for part in parts)])
        scalars = [self.share * given.scalars[name] for name in self.format_of_tail.scalars]
        return OwnTail(
            self.share,
            any(part.clipped for part in parts),
            np.concatenate([np.empty(0, np.bool_), *unfit]),
            np.where(self.gone, 1.0, errors),
            self.far,
            self.faint,
            np.array([given.weight, *scalars], np.float64),
        )

    def _nothing(self, unfit: list[NDArray[np.bool_]]) -> OwnTail:
        """The tail of a silo that brings nothing: no rounding to tell of, and no weight."""
        errors = [np.zeros(len(part.errors())) for part in self.parts.values()]
        return OwnTail(
            0.0,
            clipped=False,
            bad=np.concatenate([np.empty(0, np.bool_), *unfit]),
            errors=np.concatenate([NO_RANGES, *errors]),
            far=np.zeros_like(self.far),
            faint=np.zeros_like(self.faint),
            numbers=np.zeros(1 + len(self.format_of_tail.scalars)),
            absent=True,
        )
