"""Weighted sums by the protocol `secagg`: exact sums of masked words, sample counts included."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Authorizer, authorize
from silofl.aggregation.fixed_point import FixedPoint, decode_range, encode_exponent, fixed_point
from silofl.aggregation.fixed_point64 import FixedPoint64
from silofl.aggregation.key_prefetcher import KeyPrefetcher
from silofl.aggregation.reduce_scatter import Fill, ReduceScatter
from silofl.aggregation.secagg_round import SecAggRound
from silofl.aggregation.secure_session import SecureSession
from silofl.aggregation.shards import Shards
from silofl.aggregation.small_sum import SmallSums, masked_total, secure_total
from silofl.crypto.capacity import Limbs, count_limbs, decode_weight, encode_weight, weight_limbs
from silofl.errors import DataError
from silofl.types import TotalSlice
from silofl_kernels import (
    KEY_BYTES,
    MaskSet,
    Stream,
    add_masks,
    dequantize,
    fold,
    fold_dequantize,
    largest_magnitude,
    quantize_and_mask,
    ring_dtype,
)

Floats = NDArray[np.floating[Any]]
Words = NDArray[np.unsignedinteger[Any]]
CHUNK_WORDS = 1 << 19
"""Words that a rank has under way at a time: enough to pay for a fence, few enough for the cache."""


@dataclass(frozen=True)
class UnmaskedSum:
    """A masked sum with what opens it. Not collective to read, but for `allgather`."""

    shards: Shards
    collection: ReduceScatter
    left: MaskSet
    """What to add to the masked sum to have the plain one."""
    step: float
    """Value of one ring unit."""
    weights: float
    """Sum of the weights of the silos in the sum."""
    clipped_silos: int
    silos: tuple[int, ...]
    """FixedPoint64 of the silos in the sum."""

    def masked(self, index: int) -> Words:
        """The masked sum of a slice that this rank serves or keeps a copy of."""
        return self.collection.of(index)

    def words(self, index: int, out: Words) -> None:
        """The sum of such a slice in the ring, written to `out`, of its length."""
        fold([self.masked(index)], out, masks=self.left, offset=self.shards.bounds[index])

    def slice(self, index: int, scale: float, out: Floats) -> None:
        """`scale` times the sum of such a slice, written to `out`, of its length."""
        begin = self.shards.bounds[index]
        fold_dequantize([self.masked(index)], out, step=self.step * scale, masks=self.left, offset=begin)

    def gather(self, scale: float, out: Floats) -> None:
        """Write `scale` times the whole sum to `out` (size,) on every rank; collective."""
        exchange, bounds, rank = self.collection.exchange, self.shards.bounds, self.collection.comm.rank
        masked = self.masked(rank)
        for start in range(0, bounds[1], exchange.allgather_width):
            count = min(exchange.allgather_width, bounds[1] - start)
            part = masked[start : start + exchange.allgather_width]
            flat = exchange.outgoing().reshape(-1)
            if part.size:
                fold([part], flat[: part.size], masks=self.left, offset=bounds[rank] + start)
            for row, (begin, end) in zip(exchange.allgather(count), pairwise(bounds), strict=True):
                first, last = min(begin + start, end), min(begin + start + exchange.allgather_width, end)
                dequantize(row[: last - first], out[first:last], step=self.step * scale)


class SecureVectorSum:
    """Sums of p_i x_i over all silos of a session, x_i of `size` values; collective to make.

    Args:
        session: the ranks, their identities and rules. size: d, values of a vector. value_range: where values
        are clipped; None: agreed in every round, so that none is. rounding_seed: makes stochastic rounding a
        function of (seed, silo, round, coordinate); None: nearest. replica_count: with how many other ranks
        the sum of each slice lies, for the case that its server is lost.
    """

    def __init__(
        self,
        session: SecureSession,
        size: int,
        *,
        value_range: float | None = None,
        rounding_seed: int | None = None,
        replica_count: int = 0,
        chunk: int = CHUNK_WORDS,
    ) -> None:
        bits, silos = session.rules.bits, len(session.members)
        self.session, self.size = session, size
        self.shards = Shards(size, session.members, replica_count)
        self._range, self._rounding_seed, self._chunk = value_range, rounding_seed, chunk
        self._dtype = ring_dtype(bits)
        self._weights, self._flags = weight_limbs(bits, silos), Limbs(bits, silos, 1)
        self._fixed(value_range or 1.0, 1.0, 1.0)  # refuses now what would be refused in a round
        self._collection = self._open_collection()
        self._supply = KeyPrefetcher(session, size + self._weights.words + 2 * self._flags.words)
        self._small: SmallSums | None = None

    def _open_collection(self) -> ReduceScatter:
        return ReduceScatter(self.session.group.comm, self.shards, self._dtype, chunk=self._chunk)

    def open(self, x: Floats, weight: float, total_weight: float, round_number: int) -> UnmaskedSum:
        """Add up `weight` * x; collective. `total_weight` is the sum of all weights, known beforehand."""
        keys, small = self._take_keys()
        numbers = self._fixed(self._range or self._agree_on_range(small, x), weight, total_weight)
        met = {"clipped": 0, "nonfinite": 0}
        fill = self._filler(x, keys.masks, numbers, round_number, met)
        return self._open(keys, fill, weight, met, numbers.step, None)

    def open_words(self, words: Words, weight: float, authorizer: Authorizer) -> UnmaskedSum:
        """Add up ring words (size,) as they are; collective. `weight` is added up beside them."""
        keys, _ = self._take_keys()

        def fill(first: int, last: int, out: Words) -> None:
            out[:] = words[first:last]
            add_masks(out, keys.masks, offset=first)

        return self._open(keys, fill, weight, {"clipped": 0, "nonfinite": 0}, 1.0, authorizer)

    def _take_keys(self) -> tuple[SecAggRound, SmallSums]:
        keys = self._supply.take()
        self._small = SmallSums(self.session, keys)
        return keys, self._small

    def _open(
        self,
        keys: SecAggRound,
        fill: Fill,
        weight: float,
        met: dict[str, int],
        step: float,
        authorizer: Authorizer | None,
    ) -> UnmaskedSum:
        group = self.session.group

        # Masked words to those who serve slices, folded; then to all: this silo's weight, and what it met.
        # The same words again if a silo is lost meanwhile, over the others.
        def collect() -> tuple[tuple[int, ...], Words]:
            if self._collection.comm is not group.comm:
                self._collection = self._open_collection()
            self._collection.run(fill, fold)
            own = self._tail(weight, met)
            return group.members, masked_total(group.comm, own, keys.masks, self.size)

        survivors, tail = group.step(collect)
        authorize(group, authorizer, survivors)

        # Only when everybody has everybody's words are the survivors settled, and the masks come off.
        left = group.step(lambda: keys.open(group.comm, survivors))
        add_masks(tail, left, offset=self.size)
        weights, clipped = self._read_tail(tail)
        return UnmaskedSum(self.shards, self._collection, left, step, weights, clipped, survivors)

    def sum_scalars(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Exact sums of a few numbers; NaN where a silo was lost after somebody saw them."""

        def encode(silos: int) -> Words:
            return FixedPoint64(self.session.rules.bits, silos, len(values)).encode(values)

        if self._small is None:
            total: tuple[Words, int] | None = secure_total(self.session, encode)
        else:
            total = self._small.total(encode, repeatable=False)
        if total is None:
            return np.full(len(values), np.nan)
        words, silos = total
        return FixedPoint64(self.session.rules.bits, silos, len(values)).decode(words)

    def close(self) -> None:
        """Release the buffers; collective."""
        self._supply.close()
        self._collection.close()

    def prepare(self) -> None:
        """Make the next sum's keys in the background; every rank calls it, or none."""
        self._supply.prepare()

    def _fixed(self, value_range: float, weight: float, total_weight: float) -> FixedPoint:
        bits, silos = self.session.rules.bits, len(self.session.members)
        stochastic = self._rounding_seed is not None
        return fixed_point(bits, value_range, silos, weight, stochastic=stochastic, total_weight=total_weight)

    def _agree_on_range(self, small: SmallSums, x: Floats) -> float:
        magnitude = largest_magnitude(x)
        total = small.total(lambda silos: encode_exponent(magnitude, self._dtype), repeatable=True)
        assert total is not None, "a repeatable sum is repeated"
        return decode_range(total[0])

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
        place = struct.pack(">QQQ", self._rounding_seed, self.session.group.silo_id, round_number)
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

    in_the_clear = False
    recovers = True

    def __init__(self, vector_sum: SecureVectorSum, dtype: np.dtype[Any], *, weight: int) -> None:
        session = vector_sum.session
        self._sum, self._dtype = vector_sum, dtype
        self.shards = vector_sum.shards
        counts = count_limbs(session.rules.bits, len(session.members))
        total, _ = secure_total(session, lambda silos: counts.encode(weight))
        self._total = counts.decode(total)
        self._share = weight / self._total
        self._opened: UnmaskedSum | None = None
        self.participants = session.members
        self.clipped_silos = 0

    @property
    def ring(self) -> np.dtype[np.unsignedinteger[Any]]:
        """See `WordAggregator`."""
        return ring_dtype(self._sum.session.rules.bits)

    @property
    def summed_weight(self) -> float:
        """See `WordAggregator`."""
        return self._total if self._opened is None else self._total * self._opened.weights

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        rules = self._sum.session.rules
        return f"secagg ({rules.bits}-bit words under {rules.prg} masks: nobody sees an update)"

    @property
    def bytes_sent_per_round(self) -> int:
        """Bytes of masked words that this rank hands to other ranks."""
        start, stop = self.shards.span(self.shards.members.index(self._sum.session.group.silo_id))
        return (self._sum.size - (stop - start)) * self._sum.session.rules.bits // 8

    def prepare(self) -> None:
        """See `Aggregator`."""
        self._sum.prepare()

    def reduce(self, update: Floats, round_number: int) -> None:
        """See `Aggregator`."""
        opened = self._opened = self._sum.open(update, self._share, 1.0, round_number)
        self.clipped_silos, self.participants = opened.clipped_silos, opened.silos

    def reduce_words(self, words: Words, authorizer: Authorizer) -> None:
        """See `WordAggregator`."""
        opened = self._opened = self._sum.open_words(words, self._share, authorizer)
        self.clipped_silos, self.participants = opened.clipped_silos, opened.silos

    @property
    def _result(self) -> UnmaskedSum:
        if self._opened is None:
            raise RuntimeError("nothing was added up")
        return self._opened

    def mean(self, index: int) -> Floats:
        """See `Aggregator`."""
        start, stop = self.shards.span(index)
        mean: Floats = np.empty(stop - start, self._dtype)
        self._result.slice(index, 1.0 / self._result.weights, mean)
        return mean

    def words(self, index: int) -> TotalSlice:
        """See `WordAggregator`."""
        start, stop = self.shards.span(index)
        total: Words = np.empty(stop - start, self.ring)
        self._result.words(index, total)
        return TotalSlice(total)

    def sum_scalars(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Aggregator`."""
        return self._sum.sum_scalars(values)

    def close(self) -> None:
        """Release the buffers; collective."""
        self._sum.close()
