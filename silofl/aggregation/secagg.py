"""Weighted means by the protocol `secagg`: exact sums of masked words, sample counts included.

`round.py` calls `SecAgg.reduce` by way of the topology; `SecAggSum.open` is the whole of it. Keys, vote and
masks that are left come from `secagg_round.py`, words from `wire_format.py`, and `reduce_scatter.py` moves
and adds them. What lies in each server's slice is unmasked and decoded where `topologies/sharded_server.py`
asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Authorizer, authorize, total_of
from silofl.aggregation.claims import open_claims
from silofl.aggregation.exact_numbers import ExactNumbers
from silofl.aggregation.formats.base import Ranges
from silofl.aggregation.key_prefetcher import KeyPrefetcher
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.openable_sum import OpenableSum
from silofl.aggregation.reduce_scatter import Fold, ReduceScatter
from silofl.aggregation.secagg_round import (
    AdvertisedRound,
    SecAggRound,
    SmallSums,
    mask_set,
    masked_total,
    secure_total,
)
from silofl.aggregation.secure_session import SecureSession
from silofl.aggregation.shards import Shards, near_of
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
from silofl.crypto.masks import MaskKeys
from silofl.crypto.secagg import SumInputs
from silofl.errors import DataError
from silofl.types import Contribution, Total, Vector, Words
from silofl_kernels import MaskSet, add_masks, reduce_rows, ring_dtype

Told = tuple[Mapping[str, Ranges], Tail, tuple[int, ...], Mapping[str, Vector]]
"""What is known of an opened sum: its ranges, tail, silos, and what rounding took of this silo's values."""


class SecAggSum:
    """Sums of contributions over all silos of a session; collective to make.

    Args:
        session: the ranks, their identities and rules.
        spec: what is added up.
        value_range: where rounded values are clipped; None: agreed in every round, so that none is.
        stochastic: whether rounding is stochastic, a function of (seed, silo, round, coordinate).
        chunk: wire words that a rank has under way at a time; None: `reduce_scatter.CHUNK_BYTES`.
    """

    def __init__(
        self,
        session: SecureSession,
        spec: AggregationSpec,
        *,
        value_range: float | None = None,
        stochastic: bool = False,
        chunk: int | None = None,
    ) -> None:
        bits = session.rules.bits
        self.session, self.spec = session, spec
        kept, near = spec.replica_count, near_of(session.group.comm)
        shards = Shards(0, session.members, kept, checkers=spec.recompute, sole=spec.sole, near=near)
        self.wire = WireFormat(spec, bits, shards, stochastic=stochastic)
        self._range, self._chunk, self._dtype = value_range, chunk, ring_dtype(bits)
        self._spec_digest = spec_digest(spec, value_range, stochastic=stochastic)
        compile_kernels(spec, bits, session.rules.prg, stochastic=stochastic)
        self._collection = self._open_collection()
        self._length = self._size + self.wire.tail.words
        self._prefetcher = KeyPrefetcher(session, self._length)
        self._small: SmallSums | None = None
        self.collected = False
        """Whether this rank's words of the sum that was begun last have changed hands."""

    @property
    def _size(self) -> int:
        return self.wire.layout.shards.size

    def _open_collection(self) -> ReduceScatter:
        comm, shards = self.session.group.comm, self.wire.layout.shards
        return ReduceScatter(comm, shards, self._dtype, chunk=self._chunk, adds=True)

    def open(
        self,
        contribution: Contribution,
        total: float,
        round_number: int,
        magnitudes: Magnitudes,
        authorizer: Authorizer | None = None,
        common: Common = NOTHING_IN_COMMON,
        advertised: AdvertisedRound | None = None,
    ) -> OpenableSum:
        """Add up contributions of `total` samples in all; collective.

        Under the keys of the round `advertised`, where one was begun for this sum.
        """
        group, self.collected = self.session.group, False
        keys = self._prefetcher.take() if advertised is None else advertised.keys(self._length)
        known = SumInputs(  # what every vote signs; `ranges` follows when they are agreed on
            model=keys.fingerprint(common.vectors),
            terms=self._terms(keys, common, round_number),
            weights=total_digest(total),
        )
        self._small = SmallSums(self.session, keys, known.digest)
        ranges = self._agreed_ranges(
            keys, known, magnitudes, contribution.weight, stated=advertised is not None
        )
        rounding = self.wire.rounding(self.session.rules.prg, group.silo_id, round_number)
        share = 0.0 if group.silo_id in common.absent else self.spec.samples / total
        encoded = self.wire.encode(contribution, share, magnitudes, ranges, rounding)

        # The masks depend on all inputs: they cancel, and come off, only where all silos have the same.
        masks = keys.bind(replace(known, ranges=ranges_digest(ranges)))

        # Masked words to the ranks that serve slices, and their sums; then to all ranks: what rides along.
        # The same words again if a rank fails meanwhile, over the others.
        survivors, tail = group.step(lambda: self._collect(encoded, masks))
        keys.heard(tail, len(survivors))
        silos = common.without_absent(survivors)
        self._small.present = authorize(group, authorizer, silos)  # on disk first: see `openings.py`

        # Only when all ranks have all words are the survivors settled, and the masks come off.
        left = group.step(lambda: keys.open(group.comm, survivors))
        add_masks(tail, mask_set(left), offset=self._size)
        told = self.wire.tail.decode(tail, len(silos))
        if self._range is None:
            told = self.wire.tail.with_widest(told, encoded.widest, len(silos))
            if advertised is None:
                told = self._with_claims(told, keys, ranges, len(silos))
        return self._openable(left, (ranges, told, silos, encoded.residuals()))

    def _terms(self, keys: SecAggRound, common: Common, round_number: int) -> bytes:
        """Digest (32 bytes) of the sum's terms."""
        return common.digest(self._spec_digest, round_number)

    def _openable(self, left: MaskKeys, told: Told) -> OpenableSum:
        """The sum, from which the masks that are `left` come off as it is read."""
        return OpenableSum(self.wire, self._collection, mask_set(left), *told)

    def _collect(self, encoded: EncodedContribution, masks: MaskKeys) -> tuple[tuple[int, ...], Words]:
        """The silos whose contributions are in the sum, and its masked tail; collective."""
        group, whole = self.session.group, mask_set(masks)
        self._send(encoded, whole, reduce_rows)
        tail = masked_total(group.comm, encoded.tail(), whole, self._size)
        if self.spec.recompute:
            # Checkers copy the masked sums of the slices that they check out of the servers' memory, before
            # anybody can read one: a server cannot fit its sum to what it reads.
            self._collection.sums.hold()
        return group.members, tail

    def _send(self, encoded: EncodedContribution, masks: MaskSet, fold: Fold) -> None:
        """Have every rank's masked words with the ranks that serve slices; collective."""
        if self._collection.comm is not self.session.group.comm:
            self._collection = self._open_collection()
        encoded.begin()
        self.collected = True
        self._collection.run(lambda first, last, out: encoded.fill(first, last, out, masks), fold)

    def _agreed_ranges(
        self, keys: SecAggRound, known: SumInputs, magnitudes: Magnitudes, weight: float, *, stated: bool
    ) -> Mapping[str, Ranges]:
        """The ranges that silos agree on. `stated`: whether adverts have said all that could differ."""
        if self._range is not None:
            return self.wire.fixed_ranges(self._range)
        if not self.wire.ranged:
            return {}
        assert self._small is not None, "made for this sum"
        total = self._small.total(lambda silos: self.wire.exponents(magnitudes, weight), repeatable=True)
        assert total is not None, "a repeatable sum is repeated"
        keys.heard(*total)
        try:
            return self.wire.ranges(total[0])
        except DataError:  # or noise, because silos were given different models: then say so, by name
            if stated:
                raise
            self.session.group.step(lambda: keys.state(self.session.group.comm, known))
            raise

    def _with_claims(self, told: Tail, keys: SecAggRound, ranges: Mapping[str, Ranges], silos: int) -> Tail:
        """The tail with the silos that asked for ranges which spoilt it; collective where there are such."""
        spoilt, small, group = self.wire.tail.spoilt(told, silos), self._small, self.session.group
        if not spoilt or small is None:
            return told
        every = np.concatenate([ranges[one.name] for one in self.wire.ranged])
        wide = {index: float(every[index]) for index in spoilt}
        found = group.step(lambda: open_claims(group.comm, keys, small.held, wide))
        claimed = {spoilt[index]: who for index, who in found.items() if who}
        return replace(told, quality=replace(told.quality, claimed=claimed))

    def sum_scalars(
        self, values: NDArray[np.float64], made_from: Sequence[Vector] = ()
    ) -> NDArray[np.float64]:
        """See `Aggregator`."""
        if made_from and self._small is not None:
            self._small.decided = vectors_digest(made_from)
        numbers = ExactNumbers(self.session.rules.bits, len(values))
        if self._small is None:
            total: tuple[Words, int] | None = secure_total(self.session, numbers.encoder(values))
        else:
            total = self._small.total(numbers.encoder(values), repeatable=False)
        return np.full(len(values), np.nan) if total is None else numbers.decode(*total)

    def collect_nothing(self) -> None:
        """Take part in the sum's collection without words, for a rank that has failed; collective."""
        self._collection.run(lambda first, last, row: row.fill(0), lambda rows, part: None)

    def gather_nothing(self, error: Exception) -> NoReturn:
        """Take part in the gathering of the sum without this rank's slice, for its `error`; raises it."""
        self._collection.gather(lambda *_: None, lambda *_: None, error)
        raise error

    def close(self) -> None:
        """Release the buffers; collective."""
        self._prefetcher.close()
        self._collection.close()

    def prepare(self) -> None:
        """Make the next sum's keys in the background; every rank calls it, or none."""
        self._prefetcher.prepare()


class SecAgg:
    """`Aggregator` by Bonawitz et al. 2017; of sample counts only the sum is known."""

    def __init__(self, reducer: SecAggSum) -> None:
        session, self.spec = reducer.session, reducer.spec
        self._sum, self.layout = reducer, reducer.wire.layout
        counts = count_limbs(session.rules.bits, len(session.members))
        total, _ = secure_total(session, lambda silos: counts.encode(self.spec.samples))
        self._total = counts.decode(total)
        self._opened: OpenableSum | None = None
        self.participants = session.members

    @property
    def summed_samples(self) -> float:
        """See `Aggregator`."""
        return self._total if self._opened is None else self._total * self._opened.tail.weights

    @property
    def quality(self) -> EncodingQuality:
        """See `Aggregator`."""
        return EncodingQuality() if self._opened is None else self._opened.tail.quality

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        rules = self._sum.session.rules
        return f"secagg ({rules.bits}-bit words under {rules.prg} masks: no silo sees another's update)"

    def prepare(self) -> None:
        """See `Aggregator`."""
        self._sum.prepare()

    def reduce(
        self,
        contribution: Contribution,
        round_number: int,
        magnitudes: Magnitudes,
        authorizer: Authorizer | None = None,
        common: Common = NOTHING_IN_COMMON,
    ) -> None:
        """See `Aggregator`."""
        self._opened = None  # its words are overwritten
        self._opened = self._sum.open(contribution, self._total, round_number, magnitudes, authorizer, common)
        self.participants = self._opened.silos

    def total(self, index: int) -> Total:
        """See `Aggregator`."""
        opened = self._opened
        if opened is None:
            raise RuntimeError("nothing was added up")
        scalars = {name: value / opened.tail.weights for name, value in opened.tail.scalars.items()}
        empty = opened.wire.empty
        return total_of(self, index, lambda block: opened.block(index, block.name), empty, scalars)

    @property
    def residuals(self) -> Mapping[str, Vector]:
        """See `WordSums`."""
        return {} if self._opened is None else self._opened.residuals

    def levels(self, name: str, share: float) -> float:
        """See `WordSums`."""
        return self._sum.wire.levels(name, share)

    def spread(self, name: str) -> float:
        """See `WordSums`."""
        return self._sum.wire.spread(name)

    def words(self, index: int, name: str) -> Words:
        """See `WordSums`."""
        if self._opened is None:
            raise RuntimeError("nothing was added up")
        return self._opened.words(index, name)

    def decoded(self, name: str, words: Words) -> Vector:
        """See `WordSums`."""
        opened = self._opened
        if opened is None:
            raise RuntimeError("nothing was added up")
        total = opened.wire.total_weight(name, opened.tail, len(opened.silos))
        return opened.wire.decode_whole(name, words, opened.ranges, total)

    def sum_scalars(
        self, values: NDArray[np.float64], made_from: Sequence[Vector] = ()
    ) -> NDArray[np.float64]:
        """See `Aggregator`."""
        return self._sum.sum_scalars(values, made_from)

    def close(self) -> None:
        """Release the buffers; collective."""
        self._sum.close()
