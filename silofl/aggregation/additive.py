"""Weighted means by additive secret sharing: the simplest protocol that is right, and no dropout recovery."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.dealt_round import DealtRound
from silofl.aggregation.exchange import open_exchange
from silofl.aggregation.fixed_point import FixedPoint, decode_range, encode_exponent, fixed_point
from silofl.aggregation.keyed_vector import Layout
from silofl.aggregation.masked_sum import PIECE_WORDS
from silofl.aggregation.numbers import Numbers
from silofl.aggregation.session import SecureSession
from silofl.aggregation.shards import slice_bounds
from silofl.crypto.capacity import Limbs, count_limbs
from silofl.errors import DataError
from silofl_kernels import add_masks, dequantize, fold, largest_magnitude, quantize_and_mask, ring_dtype

Floats = NDArray[np.floating[Any]]
Words = NDArray[np.unsignedinteger[Any]]


class Additive:
    """`Aggregator` over a committee of `members` ranks: any members - 1 of them together learn nothing.

    Each member owns a slice. A silo's words travel to the owner less the keystreams of the seeds that it
    dealt to the other members, and each of those sends the owner the sum of all silos' keystreams. Only
    members own slices; the other ranks' are empty.
    """

    def __init__(
        self,
        session: SecureSession,
        size: int,
        *,
        weight: int,
        members: int,
        value_range: float | None = None,
        piece: int = PIECE_WORDS,
    ) -> None:
        self._session, self._comm, self._size, self._members = session, session.comm, size, members
        self._bits, self._range = session.rules.bits, value_range
        silos = session.comm.size
        self.bounds = slice_bounds(size, members) + [size] * (silos - members)
        self._width = max(min(piece // silos, self.bounds[1]), 1)
        self._exchange = open_exchange(session.comm, self._width, ring_dtype(self._bits))
        self._flag = Limbs(self._bits, silos, 1)
        self._deal = DealtRound(session, members)
        self._layout = Layout(0, 0)
        counts = count_limbs(self._bits, silos)
        self._share = weight / counts.decode(self._small_total(counts.encode(weight)))
        self.clipped_silos = 0
        self.in_the_clear = False

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        return f"additive ({self._bits}-bit words, shares for {self._members} silos: nobody sees an update)"

    @property
    def bytes_sent_per_round(self) -> int:
        """Bytes of residuals, and of seed totals of a member, that this rank hands to other ranks."""
        own = self.bounds[self._comm.rank + 1] - self.bounds[self._comm.rank]
        rows = 2 if self._comm.rank < self._members else 1
        return rows * (self._size - own) * self._bits // 8

    def prepare(self) -> None:
        """See `Aggregator`; nothing is made ahead."""

    def mean_slice(self, update: Floats, round_number: int) -> Floats:
        """See `Aggregator`."""
        self._deal = DealtRound(self._session, self._members)
        self._layout = Layout(self._size, 0)
        silos = self._comm.size
        value_range = self._range or self._agree_on_range(update)
        numbers = fixed_point(self._bits, value_range, silos, self._share, stochastic=False)
        total, clipped = self._collect(update, numbers)
        self.clipped_silos = self._flag.decode(self._small_total(self._flag.encode(int(clipped > 0))))
        mean = np.empty(total.size, update.dtype)
        dequantize(total, mean, step=numbers.step)
        return mean

    def sum_numbers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Aggregator`."""
        code = Numbers(self._bits, self._comm.size, len(values))
        return code.decode(self._small_total(code.encode(values)))

    def close(self) -> None:
        """Release the buffers; collective."""
        self._exchange.close()

    def _collect(self, update: Floats, numbers: FixedPoint) -> tuple[Words, int]:
        """This rank's slice of the sum, and how many of this silo's values were clipped."""
        rank, members = self._comm.rank, self._members
        total: Words = np.empty(self.bounds[rank + 1] - self.bounds[rank], ring_dtype(self._bits))
        clipped = 0
        for start in range(0, self.bounds[1], self._width):
            places = [
                (min(begin + start, end), min(begin + start + self._width, end))
                for begin, end in pairwise(self.bounds[: members + 1])
            ]
            part = total[start : start + self._width]
            clipped += self._send_residuals(update, numbers, places)
            residuals = self._exchange.swap()
            fold([row[: part.size] for row in residuals], part) if part.size else None
            self._send_seeds(places)
            seeds = self._exchange.swap()
            if part.size:
                fold([part, *(seeds[j][: part.size] for j in range(members) if j != rank)], part)
        return total, clipped

    def _send_residuals(self, update: Floats, numbers: FixedPoint, places: list[tuple[int, int]]) -> int:
        clipped = 0
        for owner, (first, last) in enumerate(places):
            counts = quantize_and_mask(
                update[first:last],
                self._exchange.outgoing()[owner, : last - first],
                scale=numbers.scale,
                limit=numbers.limit,
                masks=self._deal.residual[owner],
                offset=first,
            )
            if counts.nonfinite:
                raise DataError(
                    "this silo's values are not finite; nothing of them was sent", rank=self._comm.rank
                )
            clipped += counts.clipped
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
        start = self._layout.take(len(words))
        if start is None:
            self._deal = DealtRound(self._session, self._members)
            self._layout = Layout(0, 0)
            start = self._layout.take(len(words))
        assert start is not None, "a new round has room for every small sum"
        return self._deal.small_total(words, start)
