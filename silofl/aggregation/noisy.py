"""Sums that are noisy before anybody can read them: differential privacy for the federation as a
whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import WordAggregator
from silofl.aggregation.shards import Shards
from silofl.privacy.grid import Grid
from silofl.types import RingVector, TotalSlice, Update
from silofl_kernels import NoiseTable, Stream, add_noise, dequantize, quantize, rotate, unrotate

Floats = NDArray[np.floating[Any]]


class Keys(Protocol):
    """This silo's secret streams."""

    def stream(self, purpose: str, round_number: int, attempt: int) -> Stream:
        """The stream of one purpose in one attempt at a round."""

    def tag(self, round_number: int, attempt: int, values: NDArray[Any]) -> str:
        """Tells whether what was shown in a round was equal."""


class ReleaseGate(Protocol):
    """Decides which sums may be read, and keeps account of them."""

    def attempt(self, round_number: int) -> int:
        """The number of the attempt at a round that is under way; 0 unless a killed run began it, too."""

    def repeats(self, round_number: int, attempt: int, tag: str) -> bool:
        """Whether to go on with an attempt: nobody has read it, or every silo shows the same; collective.

        Otherwise the next attempt is under way.
        """

    def authorize(self, round_number: int, attempt: int, tag: str, silos: tuple[int, ...]) -> None:
        """See `Authorizer`: on disk before the sum can be read."""


class RetryRound(Exception):
    """A killed run showed other values of this round: take it again with other samples and noise."""


@dataclass(frozen=True)
class Noise:
    """Integers, and the noise on them."""

    grid: Grid
    table: NoiseTable
    """Of one source's noise."""
    central: bool
    """Whether those who serve the sum add it, once, in place of every silo its share."""
    rotation: Stream | None
    """Of the random rotation, the same on every silo; None for none."""


class NoisySum:
    """`Aggregator` around another one: its means are of sums with noise on a grid.

    Silos weigh the same: a mean is the sum over `divisor()`. What is added up is bounded, as `Grid` counts
    on: clipped gradients, or clipped updates.
    """

    def __init__(
        self,
        inner: WordAggregator,
        noise: Noise,
        keys: Keys,
        gate: ReleaseGate,
        divisor: Callable[[WordAggregator], float],
    ) -> None:
        self._inner, self._noise, self._keys, self._gate = inner, noise, keys, gate
        self._divisor = divisor
        self._dtype = np.dtype(np.float32)
        self._round, self._attempt = 0, 0
        self._buffer = np.empty(inner.shards.size, inner.ring)
        self.clipped_silos = 0

    def reduce(self, update: Update, round_number: int) -> None:
        """See `Aggregator`. Raises RetryRound, on every rank, before anything is shown."""
        attempt = self._gate.attempt(round_number)
        words = self._words(update, round_number, attempt)
        tag = self._keys.tag(round_number, attempt, words)
        if not self._gate.repeats(round_number, attempt, tag):
            raise RetryRound
        self._round, self._attempt, self._dtype = round_number, attempt, update.dtype
        self._inner.reduce_words(words, lambda silos: self._gate.authorize(round_number, attempt, tag, silos))

    def _words(self, update: Update, round_number: int, attempt: int) -> RingVector:
        """What this silo brings: integers, with its noise where it adds any. In float64 until rounded."""
        noise, values = self._noise, self._unrounded(update)
        if noise.rotation is not None:
            for index in range(len(self.shards.members)):
                begin, end = self.shards.span(index)
                rotate(values[begin:end], noise.rotation)
        words = self._buffer[: values.size]
        coins = self._keys.stream("rounding", round_number, attempt)
        quantize(values, words, scale=1.0 / noise.grid.step, limit=noise.grid.limit, rounding=coins)
        if not noise.central:
            add_noise(words, noise.table, self._keys.stream("noise", round_number, attempt))
        return words

    def _unrounded(self, update: Update) -> Floats:
        """In float64; the update itself, not to be changed, where `quantize` takes it to float64 anyway."""
        as_it_is = self._noise.rotation is None and self._inner.ring.itemsize == 4
        return update if as_it_is else update.astype(np.float64)

    def mean(self, index: int) -> Floats:
        """See `Aggregator`."""
        noise, words = self._noise, self._noisy_words(index)
        out: Floats = np.empty(words.size, self._dtype if noise.rotation is None else np.float64)
        dequantize(words, out, step=noise.grid.step / self._divisor(self._inner))
        if noise.rotation is not None:
            unrotate(out, noise.rotation)
        return out.astype(self._dtype, copy=False)

    def _noisy_words(self, index: int) -> TotalSlice:
        words = self._inner.words(index)
        if not self._noise.central:
            return words
        noisy = words.copy()
        stream = self._keys.stream("central noise", self._round, self._attempt)
        add_noise(noisy, self._noise.table, stream, position=self.shards.bounds[index])
        return TotalSlice(noisy)

    @property
    def shards(self) -> Shards:
        """See `Aggregator`."""
        return self._inner.shards

    @property
    def recovers(self) -> bool:
        """See `Aggregator`."""
        return self._inner.recovers

    @property
    def in_the_clear(self) -> bool:
        """See `Aggregator`."""
        return self._inner.in_the_clear

    @property
    def participants(self) -> tuple[int, ...]:
        """See `Aggregator`."""
        return self._inner.participants

    @property
    def bytes_sent_per_round(self) -> int:
        """See `Aggregator`."""
        return self._inner.bytes_sent_per_round

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        where = "once on the sum" if self._noise.central else "a share by every silo"
        return f"{self._inner.description}, {self._noise.table.name} noise, {where}"

    def prepare(self) -> None:
        """See `Aggregator`."""
        self._inner.prepare()

    def sum_scalars(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Aggregator`; without noise."""
        return self._inner.sum_scalars(values)

    def close(self) -> None:
        """See `Aggregator`."""
        self._inner.close()
