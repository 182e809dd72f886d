"""Weighted sums by the protocol `secagg`: exact sums of masked words, sample counts included."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.fixed_point import (
    EXPONENT_WORDS,
    FixedPoint,
    decode_range,
    encode_exponent,
    fixed_point,
)
from silofl.aggregation.key_supply import KeySupply
from silofl.aggregation.keyed_round import KeyedRound
from silofl.aggregation.keyed_vector import Layout
from silofl.aggregation.masked_sum import PIECE_WORDS, Fill, MaskedSum, Words
from silofl.aggregation.numbers import Numbers
from silofl.aggregation.session import SecureSession
from silofl.aggregation.small_sum import masked_total, masked_total_with_notes, secure_total
from silofl.crypto.capacity import Limbs, count_limbs, decode_weight, encode_weight, weight_limbs
from silofl.errors import DataError
from silofl.types import MaskedSlice
from silofl_kernels import (
    KEY_BYTES,
    MaskSet,
    Stream,
    add_masks,
    largest_magnitude,
    quantize_and_mask,
    ring_dtype,
)

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Opened:
    """A masked sum with what opens it, on the rank that owns its slice."""

    masked: MaskedSlice
    left: MaskSet
    """What to add to the slice to have the plain sum."""
    step: float
    """Value of one ring unit."""
    weights: float
    """Sum of the weights of the silos in the sum."""
    clipped_silos: int


class SecureVectorSum:
    """Sums of p_i x_i over all ranks of a session, x_i of `size` values; collective to make.

    Args:
        session: the ranks, their identities and rules.
        size: d, values of a vector.
        value_range: where values are clipped; None: agreed in every round, so that none is.
        rounding_seed: makes stochastic rounding a function of (seed, silo, round, coordinate); None: nearest.
    """

    def __init__(
        self,
        session: SecureSession,
        size: int,
        *,
        value_range: float | None = None,
        rounding_seed: int | None = None,
        piece: int = PIECE_WORDS,
    ) -> None:
        bits, silos = session.rules.bits, session.comm.size
        self.session, self.size = session, size
        self._range, self._rounding_seed = value_range, rounding_seed
        self._dtype = ring_dtype(bits)
        self.words = MaskedSum(session.comm, size, self._dtype, piece=piece)
        self._weights, self._flags = weight_limbs(bits, silos), Limbs(bits, silos, 1)
        tail = self._weights.words + 2 * self._flags.words
        self._layout = Layout(size, tail)
        self._keys: KeyedRound | None = None
        self._supply = KeySupply(session, self._layout.length)
        self._fixed(value_range or 1.0, 1.0, 1.0)  # refuses now what would be refused in a round

    def open(self, x: Floats, weight: float, total_weight: float, round_number: int) -> Opened:
        """Add up `weight` * x; collective. `total_weight` is the sum of all weights, known beforehand."""
        comm = self.session.comm
        self._layout = Layout(self._layout.vector, self._layout.tail)
        keys = self._keys = self._supply.take()
        numbers = self._fixed(self._range or self._agree_on_range(x), weight, total_weight)

        # Masked words to the owners of slices, folded; then to all: this silo's weight, and what it met.
        met = {"clipped": 0, "nonfinite": 0}
        masked = self.words.collect(self._filler(x, keys.masks, numbers, round_number, met))
        own = self._tail(weight, met)
        tail, pledges = masked_total_with_notes(comm, own, keys.masks, self.size, keys.pledge)

        # Only when everybody's words are in the sum do the masks come off it.
        left = keys.open(pledges)
        add_masks(tail, left, offset=self.size)
        weights, clipped = self._read_tail(tail)
        return Opened(masked, left, numbers.step, weights, clipped)

    def sum_numbers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Exact sums of a few numbers, by the pair masks of the last round at positions of their own."""
        code = Numbers(self.session.rules.bits, self.session.comm.size, len(values))
        words = code.encode(values)
        total = self._small_total(words)
        return code.decode(secure_total(self.session, words) if total is None else total)

    def close(self) -> None:
        """Release the buffers; collective."""
        self._supply.close()
        self.words.close()

    def prepare(self) -> None:
        """Make the next sum's keys in the background; every rank calls it, or none."""
        self._supply.prepare()

    def _small_total(self, words: Words) -> Words | None:
        if self._keys is None:
            return None
        start = self._layout.take(len(words))
        if start is None:
            return None
        return masked_total(self.session.comm, words, self._keys.pair_masks, start)

    def _fixed(self, value_range: float, weight: float, total_weight: float) -> FixedPoint:
        bits, silos = self.session.rules.bits, self.session.comm.size
        stochastic = self._rounding_seed is not None
        return fixed_point(bits, value_range, silos, weight, stochastic=stochastic, total_weight=total_weight)

    def _agree_on_range(self, x: Floats) -> float:
        counts = self._small_total(encode_exponent(largest_magnitude(x), self._dtype))
        assert counts is not None, f"{EXPONENT_WORDS} positions are free in a new round"
        return decode_range(counts)

    def _filler(
        self, x: Floats, masks: MaskSet, numbers: FixedPoint, round_number: int, met: dict[str, int]
    ) -> Fill:
        rounding = self._rounding(masks, round_number)

        def fill(first: int, last: int, out: Words) -> None:
            counts = quantize_and_mask(
                x[first:last],
                out,
                scale=numbers.scale,
                limit=numbers.limit,
                masks=masks,
                offset=first,
                rounding=rounding,
            )
            met["clipped"] += counts.clipped
            met["nonfinite"] += counts.nonfinite

        return fill

    def _rounding(self, masks: MaskSet, round_number: int) -> Stream | None:
        if self._rounding_seed is None:
            return None
        place = struct.pack(">QQQ", self._rounding_seed, self.session.comm.rank, round_number)
        return Stream(masks.prg, hashlib.sha256(b"silofl rounding" + place).digest()[: KEY_BYTES[masks.prg]])

    def _tail(self, weight: float, met: dict[str, int]) -> Words:
        flags = [self._flags.encode(int(met[name] > 0)) for name in ("clipped", "nonfinite")]
        return np.concatenate([encode_weight(weight, self._weights), *flags])

    def _read_tail(self, tail: Words) -> tuple[float, int]:
        """Sum of weights and number of clipped silos; DataError where a silo's values are not finite."""
        at, each = self._weights.words, self._flags.words
        nonfinite = self._flags.decode(tail[at + each :])
        if nonfinite:
            raise DataError(
                f"{nonfinite} of the silos have values that are not finite; the sum was not opened", rank=0
            )
        return decode_weight(tail[:at], self._weights), self._flags.decode(tail[at : at + each])


class SecAgg:
    """`Aggregator` by Bonawitz et al. 2017; of weights, which are sample counts, only the sum is known."""

    def __init__(self, vector_sum: SecureVectorSum, *, weight: int) -> None:
        session = vector_sum.session
        self._sum, self._rank = vector_sum, session.comm.rank
        self.bounds = vector_sum.words.bounds
        counts = count_limbs(session.rules.bits, session.comm.size)
        self._share = weight / counts.decode(secure_total(session, counts.encode(weight)))
        self.clipped_silos = 0
        self.in_the_clear = False

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        rules = self._sum.session.rules
        return f"secagg ({rules.bits}-bit words under {rules.prg} masks: nobody sees an update)"

    @property
    def bytes_sent_per_round(self) -> int:
        """Bytes of masked words that this rank hands to other ranks."""
        own = self.bounds[self._rank + 1] - self.bounds[self._rank]
        return (self._sum.size - own) * self._sum.session.rules.bits // 8

    def prepare(self) -> None:
        """See `Aggregator`."""
        self._sum.prepare()

    def mean_slice(self, update: Floats, round_number: int) -> Floats:
        """See `Aggregator`."""
        opened = self._sum.open(update, self._share, 1.0, round_number)
        self.clipped_silos = opened.clipped_silos
        mean = np.empty(opened.masked.size, update.dtype)
        self._sum.words.to_floats(opened.masked, opened.left, opened.step / opened.weights, mean)
        return mean

    def sum_numbers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Aggregator`."""
        return self._sum.sum_numbers(values)

    def close(self) -> None:
        """Release the buffers; collective."""
        self._sum.close()
