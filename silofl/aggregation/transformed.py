"""Sums of transformed contributions: transforms around any aggregator, with a gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.around import AroundSum
from silofl.aggregation.base import Aggregator, Authorizer, Claim
from silofl.aggregation.layout import Layout
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.spec import AggregationSpec
from silofl.aggregation.sum_terms import NOTHING_IN_COMMON, Common
from silofl.aggregation.tail import EncodingQuality
from silofl.transforms.base import Slice, Transform
from silofl.types import Contribution, Total, Vector, Words


class ReleaseGate(Protocol):
    """Decides which sums may be read, and keeps account of them."""

    def attempt(self, round_number: int) -> int:
        """The number of the attempt at a round that is under way; 0 unless a killed run began it, too."""

    def repeats(self, round_number: int, attempt: int, tag: str) -> bool:
        """Whether to go on with an attempt: no rank has read it, or every silo shows the same; collective.

        Otherwise the next attempt is under way.
        """

    def authorize(self, round_number: int, attempt: int, tag: str, silos: tuple[int, ...]) -> None:
        """See `Authorizer`: on disk before the sum can be read."""


@dataclass(frozen=True)
class Binding:
    """What the noise of one sum is bound to; equal ones, of one silo in one attempt, give equal noise."""

    fingerprint: bytes
    """Of what this silo brings; it tells this silo alone anything, as whether it shows the same again."""
    common: bytes = b""
    """What of it all silos must have in common, or the sum stays closed."""


class RetryRound(Exception):
    """A killed run showed other values of this round: take it again with other samples and noise."""


class TransformedSum(AroundSum):
    """`Aggregator` around another one, of words: transforms turn every slice into ring integers and back.

    Silos weigh the same: a mean is the sum over `divisor()`. What is added up is bounded, as the transforms
    count on.

    Args:
        inner: adds up the words of the spec's vectors.
        spec: the vectors as they are outside.
        ring: type of the integers that `inner` adds up.
        transforms: the first is applied first to what a silo brings, and last to the sum.
        gate: asked before a sum is begun, and before it can be read.
        bind: what the noise of a sum is bound to, of the integers that this silo brings without it:
            bind(round, attempt, words). May be collective.
        divisor: makes a mean of the sum.
        silo: this one's number. In a sum that it is absent from it brings zeros, and no noise.
    """

    def __init__(
        self,
        inner: Aggregator,
        spec: AggregationSpec,
        ring: np.dtype[Any],
        transforms: Sequence[Transform],
        gate: ReleaseGate,
        bind: Callable[[int, int, NDArray[Any]], Binding],
        divisor: Callable[[Aggregator], float],
        *,
        silo: int,
    ) -> None:
        super().__init__(inner)
        self._silo = silo
        self.spec, self._transforms = spec, transforms
        self._gate, self._bind, self._divisor = gate, bind, divisor
        after = [number for number, one in enumerate(transforms) if one.needs_fingerprint]
        self._before = min(after, default=len(transforms))
        """How many transforms need no fingerprint of what the ones before them have made."""
        self.layout: Layout = inner.layout
        self.quality = EncodingQuality()
        self._round, self._attempt = 0, 0
        self._words = np.empty(sum(one.size for one in spec.vectors), ring)
        self._rounded: tuple[int, int] | None = None
        """Of which round and attempt `_words` are this silo's, without noise."""

    def round_off(self, contribution: Contribution, round_number: int) -> NDArray[Any]:
        """The ring integers that this silo will bring, without noise; not collective.

        `reduce` begins with it where it was not called before for the same attempt at the round.
        """
        attempt = self._gate.attempt(round_number)
        for name, first, last, position in self._all_parts():
            out, place = (
                self._words[position : position + last - first],
                Slice(position, round_number, attempt),
            )
            values: Any = contribution.vectors[name][first:last]
            for transform in self._transforms[: self._before]:
                values = transform.encode(values, place, out)
        self._rounded = round_number, attempt
        return self._words

    def reduce(
        self,
        contribution: Contribution,
        round_number: int,
        magnitudes: Magnitudes,
        authorizer: Authorizer | None = None,
        common: Common = NOTHING_IN_COMMON,
    ) -> None:
        """See `Aggregator`. Raises RetryRound, on every rank, before anything is shown."""
        attempt = self._gate.attempt(round_number)
        absent = self._silo in common.absent
        binding = self._encode(contribution, round_number, attempt, absent=absent)
        tag, common = binding.fingerprint.hex(), replace(common, terms=common.terms + binding.common)
        if not self._gate.repeats(round_number, attempt, tag):
            raise RetryRound
        self._round, self._attempt = round_number, attempt

        def allow(silos: tuple[int, ...]) -> Claim | None:
            self._gate.authorize(round_number, attempt, tag, silos)
            return None if authorizer is None else authorizer(silos)

        self._inner.reduce(Contribution(self._vectors()), round_number, {}, allow, common)

    def _encode(
        self, contribution: Contribution, round_number: int, attempt: int, *, absent: bool
    ) -> Binding:
        """Have the ring integers that this silo brings in `_words`; what their noise is bound to."""
        if self._rounded != (round_number, attempt):
            self.round_off(contribution, round_number)
        binding, self._rounded = self._bind(round_number, attempt, self._words), None
        if absent:
            self._words.fill(0)
            return binding
        for _, first, last, position in self._all_parts():
            out = self._words[position : position + last - first]
            for transform in self._transforms[self._before :]:
                transform.encode(out, Slice(position, round_number, attempt, binding.fingerprint), out)
        return binding

    def _all_parts(self) -> Iterator[tuple[str, int, int, int]]:
        """Of all slices those `_parts` that are not empty."""
        for index in range(len(self.layout.shards.members)):
            yield from (part for part in self._parts(index) if part[2] > part[1])

    def _vectors(self) -> dict[str, Any]:
        """The integers of each vector."""
        ends = np.cumsum([one.size for one in self.spec.vectors])
        parts = np.split(self._words, ends[:-1])
        return {one.name: part for one, part in zip(self.spec.vectors, parts, strict=True)}

    def _parts(self, index: int) -> Iterator[tuple[str, int, int, int]]:
        """Slice `index` of every vector: name, first and last value, position in the whole contribution."""
        before = 0
        for one in self.spec.vectors:
            first, last = self.layout.spans[one.name].span(index)
            yield one.name, first, last, before + first
            before += one.size

    def total(self, index: int) -> Total:
        """See `Aggregator`."""
        total, divisor = self._inner.total(index), self._divisor(self._inner)
        mean = {
            name: self._decode(total.mean[name], Slice(position, self._round, self._attempt), divisor)
            for name, first, last, position in self._parts(index)
            if last > first
        }
        mean |= {one.name: np.empty(0, self.spec.dtype) for one in self.spec.vectors if one.name not in mean}
        return Total(mean, {}, total.silos, total.all_silos)

    residuals: Mapping[str, Vector] = {}  # `WordSums`, for a codec around this sum, begins here
    """Of rounding nothing is kept: it would be noise that others have seen."""

    def levels(self, name: str, share: float) -> float:
        """See `WordSums`: the grid has as many for all."""
        return np.inf

    def spread(self, name: str) -> float:
        """See `WordSums`: no range holds errors."""
        return np.inf

    def words(self, index: int, name: str) -> Words:
        """See `WordSums`: with all their noise where silos have added it."""
        words: Any = self._inner.total(index).mean[name]  # of ring integers
        return cast("Words", words)

    def decoded(self, name: str, words: Words) -> Vector:
        """See `WordSums`."""
        mean, divisor = np.empty(len(words), self.spec.dtype), self._divisor(self._inner)
        for index in range(len(self.layout.shards.members)):
            for one, first, last, position in self._parts(index):
                if one == name and last > first:
                    place = Slice(position, self._round, self._attempt)
                    mean[first:last] = self._decode(words[first:last], place, divisor)
        return mean

    def _decode(self, values: Any, place: Slice, divisor: float) -> Any:
        for transform in reversed(self._transforms):
            values = transform.decode(values, place)
        mean = np.empty(values.size, self.spec.dtype)
        np.divide(values, divisor, out=mean, casting="same_kind")  # in float64, rounded once
        return mean

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        names = ", ".join(type(one).__name__ for one in self._transforms)
        return f"{self._inner.description}, through {names}"
