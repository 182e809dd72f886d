"""Weighted means by additive secret sharing: the simplest protocol that is right, and no dropout recovery."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.additive_round import AdditiveRound
from silofl.aggregation.base import Authorizer, authorize
from silofl.aggregation.fixed_point import FixedPoint, decode_range, encode_exponent, fixed_point
from silofl.aggregation.fixed_point64 import FixedPoint64
from silofl.aggregation.mask_offsets import MaskOffsets
from silofl.aggregation.row_exchange import open_exchange
from silofl.aggregation.secagg import CHUNK_WORDS
from silofl.aggregation.secure_session import SecureSession
from silofl.aggregation.shards import Shards
from silofl.crypto.capacity import Limbs, count_limbs
from silofl.errors import DataError
from silofl.types import TotalSlice
from silofl_kernels import (
    MaskSet,
    add_masks,
    dequantize,
    fold,
    largest_magnitude,
    quantize_and_mask,
    ring_dtype,
)

Floats = NDArray[np.floating[Any]]
Words = NDArray[np.unsignedinteger[Any]]
MaskedFill = Callable[[int, int, Words, MaskSet], int]
"""fill(first, last, row, masks) writes coordinates [first, last) and masks; how many values it clipped."""


class Additive:
    """`Aggregator` over the committee of the first ranks: all but one of them together learn nothing.

    Each member owns a slice. A silo's words travel to the owner less the keystreams of the seeds that it
    dealt to the other members, and each of those sends the owner the sum of all silos' keystreams. Only
    members own slices; the other ranks' are empty. A round in which a silo is lost is void: two sums that
    differ by one silo would show what it brought.
    """

    in_the_clear = False
    recovers = False

    def __init__(
        self,
        session: SecureSession,
        size: int,
        dtype: np.dtype[np.floating[Any]],
        *,
        weight: int,
        committee: int,
        value_range: float | None = None,
        chunk: int = CHUNK_WORDS,
    ) -> None:
        comm = session.group.comm
        self._session, self._comm, self._size, self._members = session, comm, size, committee
        self._bits, self._range, self._dtype = session.rules.bits, value_range, dtype
        silos = comm.size
        self.shards = Shards(size, session.members, servers=committee)
        self.participants = session.members
        self._bounds = self.shards.bounds
        self._width = max(min(chunk // silos, self._bounds[1]), 1)
        own = self._bounds[comm.rank + 1] - self._bounds[comm.rank]
        self.ring = ring_dtype(self._bits)
        self._exchange = open_exchange(comm, self._width, own, self.ring)
        self._flag = Limbs(self._bits, silos, 1)
        self._deal = AdditiveRound(session, committee)
        self._offsets = MaskOffsets(0, 0)
        counts = count_limbs(self._bits, silos)
        self.summed_weight = float(counts.decode(self._small_total(counts.encode(weight))))
        self._share = weight / self.summed_weight
        self._step = 0.0
        self.clipped_silos = 0

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        return f"additive ({self._bits}-bit words, shares for {self._members} silos: nobody sees an update)"

    @property
    def bytes_sent_per_round(self) -> int:
        """Bytes of residuals, and of seed totals of a member, that this rank hands to other ranks."""
        own = self._bounds[self._comm.rank + 1] - self._bounds[self._comm.rank]
        rows = 2 if self._comm.rank < self._members else 1
        return rows * (self._size - own) * self._bits // 8

    def prepare(self) -> None:
        """See `Aggregator`; nothing is made ahead."""

    def reduce(self, update: Floats, round_number: int) -> None:
        """See `Aggregator`."""
        self._session.group.step(lambda: self._reduce(update))

    def reduce_words(self, words: Words, authorizer: Authorizer) -> None:
        """See `WordAggregator`."""

        def fill(first: int, last: int, row: Words, masks: MaskSet) -> int:
            row[:] = words[first:last]
            add_masks(row, masks, offset=first)
            return 0

        def reduce() -> None:
            self._deal_anew()
            self._collect(fill)

        authorize(self._session.group, authorizer, self.participants)
        self._session.group.step(reduce)

    def _deal_anew(self) -> None:
        self._deal = AdditiveRound(self._session, self._members)
        self._offsets = MaskOffsets(self._size, 0)

    def _reduce(self, update: Floats) -> None:
        self._deal_anew()
        value_range = self._range or self._agree_on_range(update)
        numbers = fixed_point(self._bits, value_range, self._comm.size, self._share, stochastic=False)

        def fill(first: int, last: int, row: Words, masks: MaskSet) -> int:
            return _quantize(update[first:last], row, numbers, masks, first)

        clipped = self._collect(fill)
        self._step = numbers.step
        self.clipped_silos = self._flag.decode(self._small_total(self._flag.encode(int(clipped > 0))))

    def mean(self, index: int) -> Floats:
        """See `Aggregator`; a rank has its own slice alone."""
        words = self.words(index)
        mean: Floats = np.empty(words.size, self._dtype)
        dequantize(words, mean, step=self._step)
        return mean

    def words(self, index: int) -> TotalSlice:
        """See `WordAggregator`; a rank has its own slice alone."""
        if index != self._comm.rank:
            raise ValueError(f"rank {self._comm.rank} does not serve slice {index}")
        return TotalSlice(self._exchange.result)

    def sum_scalars(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Aggregator`."""
        code = FixedPoint64(self._bits, self._comm.size, len(values))
        words = code.encode(values)
        return code.decode(self._session.group.step(lambda: self._small_total(words)))

    def close(self) -> None:
        """Release the buffers; collective."""
        self._exchange.close()

    def _collect(self, fill: MaskedFill) -> int:
        """Have this rank's slice of the sum in `result`; the sum of what `fill` returned."""
        rank, members = self._comm.rank, self._members
        total = self._exchange.result
        clipped = 0
        for start in range(0, self._bounds[1], self._width):
            places = [
                (min(begin + start, end), min(begin + start + self._width, end))
                for begin, end in pairwise(self._bounds[: members + 1])
            ]
            part = total[start : start + self._width]
            clipped += self._send_residuals(fill, places)
            residuals = self._exchange.alltoall()
            fold([row[: part.size] for row in residuals], part) if part.size else None
            self._send_seeds(places)
            seeds = self._exchange.alltoall()
            if part.size:
                fold([part, *(seeds[j][: part.size] for j in range(members) if j != rank)], part)
        return clipped

    def _send_residuals(self, fill: MaskedFill, places: list[tuple[int, int]]) -> int:
        clipped = 0
        for owner, (first, last) in enumerate(places):
            row = self._exchange.outgoing()[owner, : last - first]
            clipped += fill(first, last, row, self._deal.residual[owner])
        return clipped

    def _send_seeds(self, places: list[tuple[int, int]]) -> None:
        for owner, (first, last) in enumerate(places):
            seeds = self._deal.seeds[owner]
            if seeds is not None:
                row = self._exchange.outgoing()[owner, : last - first]
                row[:] = 0
                add_masks(row, seeds, offset=first)

    def _agree_on_range(self, update: Floats) -> float:
        own = encode_exponent(largest_magnitude(update), ring_dtype(self._bits))
        return decode_range(self._small_total(own))

    def _small_total(self, words: Words) -> Words:
        start = self._offsets.take(len(words))
        if start is None:
            self._deal = AdditiveRound(self._session, self._members)
            self._offsets = MaskOffsets(0, 0)
            start = self._offsets.take(len(words))
        assert start is not None, "a new round has room for every small sum"
        return self._deal.small_total(words, start)


def _quantize(values: Floats, row: Words, numbers: FixedPoint, masks: MaskSet, offset: int) -> int:
    """Write masked words of `values`; how many of them were clipped."""
    counts = quantize_and_mask(
        values, row, scale=numbers.scale, limit=numbers.limit, masks=masks, offset=offset
    )
    if counts.nonfinite:
        raise DataError("this silo's values are not finite; nothing of them was sent")
    return counts.clipped
