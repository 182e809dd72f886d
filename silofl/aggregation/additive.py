"""Weighted means by additive secret sharing: the simplest protocol that is right, and no dropout recovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.additive_round import AdditiveRound
from silofl.aggregation.base import Authorizer, authorize, total_of
from silofl.aggregation.exact_numbers import ExactNumbers
from silofl.aggregation.exchange_choice import open_exchange
from silofl.aggregation.formats.base import Ranges
from silofl.aggregation.layout import Block
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.reduce_scatter import chunk_width
from silofl.aggregation.secure_session import SecureSession
from silofl.aggregation.shards import Shards
from silofl.aggregation.spec import AggregationSpec
from silofl.aggregation.sum_terms import (
    NOTHING_IN_COMMON,
    Common,
    ranges_digest,
    spec_digest,
    total_digest,
    vectors_digest,
)
from silofl.aggregation.tail import EncodingQuality, Tail
from silofl.aggregation.warm_up import compile_kernels
from silofl.aggregation.wire_format import EncodedContribution, WireFormat
from silofl.crypto.capacity import count_limbs
from silofl.crypto.secagg import SumInputs
from silofl.errors import StoppedError
from silofl.types import Contribution, Total, Vector, Words
from silofl_kernels import MaskSet, add_masks, reduce_rows, ring_dtype


class Additive:
    """`Aggregator` over the committee of the first ranks: all but one of them together learn nothing.

    Each member owns a slice. A silo's words travel to the owner less the keystreams of the seeds that it
    dealt to the other members, and each of those sends the owner the sum of all silos' keystreams. Only
    members own slices; the other ranks' are empty. A round in which a rank fails is void: two sums that
    differ by one silo would show what it brought.
    """

    def __init__(
        self,
        session: SecureSession,
        spec: AggregationSpec,
        *,
        committee: int,
        value_range: float | None = None,
        stochastic: bool = False,
    ) -> None:
        comm = session.group.comm
        self._session, self._comm, self.spec, self._committee = session, comm, spec, committee
        self._bits, self._range = session.rules.bits, value_range
        self._spec_digest = spec_digest(spec, value_range, stochastic=stochastic)
        shards = Shards(0, session.members, servers=committee)
        self._wire = WireFormat(spec, self._bits, shards, stochastic=stochastic)
        compile_kernels(spec, self._bits, session.rules.prg, stochastic=stochastic)
        self.layout, self.participants = self._wire.layout, session.members
        self._bounds = self.layout.shards.bounds
        self._width = chunk_width(self._longest, comm.size, ring_dtype(self._bits))
        start, stop = self.layout.shards.span(comm.rank)
        self._exchange = open_exchange(comm, self._width, stop - start, ring_dtype(self._bits))
        self._deal_again(0)
        counts = count_limbs(self._bits, comm.size)
        self.summed_samples = float(counts.decode(self._small_total(counts.encode(spec.samples))))
        self._ranges: Mapping[str, Ranges] = {}
        self.residuals: Mapping[str, Vector] = {}
        self._tail: Tail | None = None

    @property
    def _longest(self) -> int:
        return max(stop - start for start, stop in pairwise(self._bounds))

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        shares = f"additive ({self._bits}-bit words, shares for {self._committee} silos"
        return f"{shares}: no silo sees another's update)"

    @property
    def quality(self) -> EncodingQuality:
        """See `Aggregator`."""
        return EncodingQuality() if self._tail is None else self._tail.quality

    def prepare(self) -> None:
        """See `Aggregator`; nothing is made ahead."""

    def reduce(
        self,
        contribution: Contribution,
        round_number: int,
        magnitudes: Magnitudes,
        authorizer: Authorizer | None = None,
        common: Common = NOTHING_IN_COMMON,
    ) -> None:
        """See `Aggregator`."""
        self.participants = common.without_absent(self._session.members)
        authorize(self._session.group, authorizer, self.participants)
        self._session.group.step(lambda: self._reduce(contribution, round_number, magnitudes, common))

    def _reduce(
        self, contribution: Contribution, round_number: int, magnitudes: Magnitudes, common: Common
    ) -> None:
        self._refuse_loss()
        self._tail = None  # its words are overwritten
        self._deal_again(self.layout.shards.size)
        terms = common.digest(self._spec_digest, round_number)
        model, weights = self._deal.fingerprint(common.vectors), total_digest(self.summed_samples)
        self._deal.agree(SumInputs(model, terms, weights))  # before anything that is made from the model
        if self._range is not None:
            self._ranges = self._wire.fixed_ranges(self._range)
        else:
            own = self._wire.exponents(magnitudes, contribution.weight)
            self._ranges = self._wire.ranges(self._small_total(own)) if own.size else {}
        self._deal.agree(SumInputs(model, terms, weights, ranges_digest(self._ranges)))
        silo, prg = self._session.group.silo_id, self._session.rules.prg
        share = 0.0 if silo in common.absent else self.spec.samples / self.summed_samples
        rounding = self._wire.rounding(prg, silo, round_number)
        encoded = self._wire.encode(contribution, share, magnitudes, self._ranges, rounding)
        self._collect(encoded)
        self.residuals = encoded.residuals()
        told = self._wire.tail.decode(self._small_total(encoded.tail()), len(self.participants))
        if self._range is None:
            told = self._wire.tail.with_widest(told, encoded.widest, len(self.participants))
        self._tail = told

    def _refuse_loss(self) -> None:
        """StoppedError, on every rank, once one of them has failed: seeds are dealt to all or none."""
        if self._session.group.comm is not self._comm:
            raise StoppedError(
                "a silo is lost, and the protocol additive goes on without none; --resume repeats the round",
                rank=0,
            )

    def _deal_again(self, size: int) -> None:
        """Fresh seeds; small sums take positions of their masks behind the first `size`."""
        self._deal, self._next = AdditiveRound(self._session, self._committee), size

    def total(self, index: int) -> Total:
        """See `Aggregator`; a rank has its own slice alone."""
        if index != self._comm.rank:
            raise ValueError(f"rank {self._comm.rank} does not serve slice {index}")
        tail = self._tail
        if tail is None:
            raise RuntimeError("nothing was added up")
        scalars = {name: value / tail.weights for name, value in tail.scalars.items()}
        return total_of(self, index, lambda block: self._read(block, tail), self._wire.empty, scalars)

    def _read(self, block: Block, tail: Tail) -> Vector:
        start = self._bounds[self._comm.rank]
        words = self._exchange.result[block.start - start : block.stop - start]
        total = self._wire.total_weight(block.name, tail, len(self.participants))
        mean: Vector = self._wire.decode(
            block, words, MaskSet(self._session.rules.prg, [], []), self._ranges, total
        )
        return mean

    def levels(self, name: str, share: float) -> float:
        """See `WordSums`."""
        return self._wire.levels(name, share)

    def spread(self, name: str) -> float:
        """See `WordSums`."""
        return self._wire.spread(name)

    def words(self, index: int, name: str) -> Words:
        """See `WordSums`; a rank has its own slice alone."""
        start = self._bounds[index]
        parts = [
            self._exchange.result[block.start - start : block.stop - start]
            for block in self.layout.blocks(index)
            if block.name == name
        ]
        return np.concatenate([np.empty(0, ring_dtype(self._bits)), *parts])

    def decoded(self, name: str, words: Words) -> Vector:
        """See `WordSums`."""
        if self._tail is None:
            raise RuntimeError("nothing was added up")
        total = self._wire.total_weight(name, self._tail, len(self.participants))
        return self._wire.decode_whole(name, words, self._ranges, total)

    def sum_scalars(
        self, values: NDArray[np.float64], made_from: Sequence[Vector] = ()
    ) -> NDArray[np.float64]:
        """See `Aggregator`."""
        if made_from:
            inputs = SumInputs(vectors_digest(made_from))
            self._session.group.step(lambda: self._deal.agree(inputs))
        numbers, silos = ExactNumbers(self._bits, len(values)), self._comm.size
        words = numbers.encoder(values)(silos)
        return numbers.decode(self._session.group.step(lambda: self._small_total(words)), silos)

    def close(self) -> None:
        """Release the buffers; collective."""
        self._exchange.close()

    def _collect(self, encoded: EncodedContribution) -> None:
        """Have this rank's slice of the sum in the exchange's `result`."""
        rank, committee = self._comm.rank, self._committee
        total = self._exchange.result
        for start in range(0, self._longest, self._width):
            places = [
                (min(begin + start, end), min(begin + start + self._width, end))
                for begin, end in pairwise(self._bounds[: committee + 1])
            ]
            part = total[start : start + self._width]
            self._send_residuals(encoded, places)
            residuals = self._exchange.alltoall()
            if part.size:
                reduce_rows([row[: part.size] for row in residuals], part)
            self._send_seeds(places)
            seeds = self._exchange.alltoall()
            if part.size:
                reduce_rows([part, *(seeds[j][: part.size] for j in range(committee) if j != rank)], part)

    def _send_residuals(self, encoded: EncodedContribution, places: list[tuple[int, int]]) -> None:
        for owner, (first, last) in enumerate(places):
            row = self._exchange.outgoing()[owner, : last - first]
            encoded.fill(first, last, row, self._deal.residual[owner])

    def _send_seeds(self, places: list[tuple[int, int]]) -> None:
        for owner, (first, last) in enumerate(places):
            seeds = self._deal.seeds[owner]
            if seeds is not None:
                row = self._exchange.outgoing()[owner, : last - first]
                total = np.zeros_like(row)  # in private memory: sums of fewer seeds are for nobody to read
                add_masks(total, seeds, offset=first)
                row[:] = total

    def _small_total(self, words: Words) -> Words:
        self._refuse_loss()
        start, self._next = self._next, self._next + len(words)  # every position is used once
        return self._deal.small_total(words, start)
