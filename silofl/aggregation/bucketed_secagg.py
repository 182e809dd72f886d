"""Means of random buckets of silos, by sums whose masks cancel inside each bucket alone.

One round of `secagg` has the keys, shares, votes and reveals of all silos. A silo's vector has its self mask
on it and its masks with the silos of its bucket; what rides along has those with all silos. The ranks that
serve slices add up each bucket's rows apart. What opens is every bucket's sum, but of none that has fewer
than three silos left: its silos are not among the survivors that are voted for, and nothing of them opens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.bucket_ranges import bucket_sums, common_ranges
from silofl.aggregation.bucketing import FEWEST_IN_BUCKET, Bucketing, Buckets, buckets_digest, packed
from silofl.aggregation.exchanges import Row
from silofl.aggregation.formats.base import Ranges
from silofl.aggregation.formats.scaled import HIGHEST
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.openable_sum import OpenableSum
from silofl.aggregation.reduce_scatter import ReduceScatter
from silofl.aggregation.secagg import SecAgg, SecAggSum, Told
from silofl.aggregation.secagg_round import SecAggRound, mask_set, masked_total
from silofl.aggregation.sum_terms import Common
from silofl.aggregation.wire_format import EncodedContribution
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.protocol import Communicator
from silofl.crypto.framing import Inbox
from silofl.crypto.kdf import digest, pack_silos
from silofl.crypto.masks import MaskKeys
from silofl.crypto.secagg import (
    SumInputs,
    commit,
    commitments_of,
    disclose,
    heard_otherwise,
    joint_seed,
)
from silofl.errors import DataError, ProtocolError, StoppedError
from silofl.types import Total, Vector, Words
from silofl_kernels import reduce_rows, reduce_rows_float


class BucketedSecAggSum(SecAggSum):
    """`SecAggSum` of a spec with `bucketing`: one sum of each bucket, in `rows`."""

    _buckets: Buckets = ()
    """As they were drawn."""
    _left: Mapping[tuple[int, ...], tuple[int, ...]] = {}
    """By bucket that is opened: the silos that are left of it."""
    _absent: tuple[int, ...] = ()
    _round = 0
    _kept = 1
    """How many sums there is room for."""
    rows: tuple[OpenableSum, ...] = ()
    """The sum of each bucket that was opened last."""

    @property
    def bucketing(self) -> Bucketing:
        """How silos are drawn into buckets."""
        assert self.spec.bucketing is not None, "made for buckets"
        return self.spec.bucketing

    def _open_collection(self) -> ReduceScatter:
        comm, shards = self.session.group.comm, self.wire.layout.shards
        self._kept = max(self._kept, self.bucketing.count(len(self.session.members)))
        return ReduceScatter(comm, shards, self._dtype, chunk=self._chunk, kept=self._kept)

    def _make_room(self, sums: int) -> None:
        """For so many; collective. Buckets of before may be smaller than those that are drawn now."""
        if sums > self._kept:
            self._collection.close()
            self._kept = sums
            self._collection = self._open_collection()

    def _terms(self, keys: SecAggRound, common: Common, round_number: int) -> bytes:
        group, drawn = self.session.group, self.bucketing.drawn
        self._absent, self._round = common.absent, round_number
        before = drawn.earlier.get(round_number)
        self._buckets = group.step(lambda: self._draw(group.comm, keys)) if before is None else before
        terms = super()._terms(keys, common, round_number)
        return digest("terms of sums in buckets", terms, buckets_digest(self._buckets))

    def _draw(self, comm: Communicator, keys: SecAggRound) -> Buckets:
        """Buckets of the silos that are there and bring something, by a seed of all silos'; collective."""
        drawn = self.bucketing.drawn
        silos = tuple(silo for silo in comm.members if silo not in drawn.convicted)
        draws = comm.members[comm.rank] in silos
        of_run = drawn.run.encode() if drawn.run else self.session.identifier
        turn = self.bucketing.turn(self._round).to_bytes(8)
        matter = digest("buckets", of_run, turn, *map(pack_silos, (silos, self._absent)))
        comm.mark("draw")
        own = commit(keys.masking, matter) if draws else b""
        commitments = Inbox.of(comm.allgather_bytes(own), comm.members)
        with raise_on_all_ranks(comm):
            commitments_of(keys.masking, matter, silos, commitments)
            commitments = Inbox({silo: commitments[silo] for silo in silos})
            drawn.hold(matter, commitments, self.session.roster)
            own = disclose(keys.masking, matter, silos, commitments) if draws else b""
        disclosed = Inbox.of(comm.allgather_bytes(own), comm.members)
        self._compare(comm, keys, matter, commitments, disclosed)
        with raise_on_all_ranks(comm):
            seed = joint_seed(keys.masking, matter, silos, commitments, disclosed)
        found = self.bucketing.dealt(seed, [silo for silo in silos if silo not in self._absent])
        self._refuse_too_few(found)
        return found

    def _compare(
        self, comm: Communicator, keys: SecAggRound, matter: bytes, commitments: Inbox, disclosed: Inbox
    ) -> None:
        """Name who gave silos different commitments, by what all were given; collective."""
        differs = False
        with raise_on_all_ranks(comm):
            differs = heard_otherwise(keys.masking, matter, tuple(commitments), commitments, disclosed)
        if any(comm.allgather_bytes(b"differs" if differs else b"")):
            told = Inbox.of(comm.allgather_bytes(packed(commitments)), comm.members)
            with raise_on_all_ranks(comm):
                self.bucketing.drawn.compare(commitments, told, self.session.roster)

    def _refuse_too_few(self, buckets: Buckets) -> None:
        """StoppedError, on every rank, where the rule has too few means, or the sum too few silos."""
        here, rules = self.session.group.members, self.session.round(0)
        silos = {*self._absent, *chain(*buckets)}.intersection(here)
        if len(buckets) >= self.bucketing.fewest and len(silos) >= rules.minimum:
            return
        why = f"robust.f takes {self.bucketing.fewest} of them"
        if len(buckets) >= self.bucketing.fewest:
            why = f"secure.threshold takes {rules.minimum} silos"
        raise StoppedError(
            f"round {self._round}: {len(here)} silos are left, {len(silos)} of them in {len(buckets)} "
            f"buckets of {FEWEST_IN_BUCKET} silos or more, and {why}; nothing was opened: --resume goes on "
            "from the last committed round with the silos that are back; a larger robust.bucket, "
            f"{FEWEST_IN_BUCKET + 1} at least, bears more deaths",
            rank=0,
        )

    def _agreed_ranges(
        self, keys: SecAggRound, known: SumInputs, magnitudes: Magnitudes, weight: float, *, stated: bool
    ) -> Mapping[str, Ranges]:
        """Those that some buckets ask for, of which the widest do not count that liars may be in."""
        if self._range is not None or not self.wire.ranged:
            return super()._agreed_ranges(keys, known, magnitudes, weight, stated=stated)
        group = self.session.group

        def sums() -> dict[tuple[int, ...], Words]:
            words = self.wire.exponents(magnitudes, weight)
            return bucket_sums(group.comm, keys, known.digest, self._buckets, words)

        found = group.step(sums)
        keys.heard(np.concatenate(list(found.values())), len(found))
        self._refuse_too_few(tuple(found))
        names = [name for one in self.wire.ranged for name in one.tensor_names]
        every = common_ranges(found.values(), len(names), self.bucketing.liars)
        if np.isinf(every).any():  # or noise, because silos were given different models: then say so, by name
            group.step(lambda: keys.state(group.comm, known))
            wide = names[int(np.argmax(np.isinf(every)))]
            raise DataError(
                f"{wide} has values that are not finite, or beyond 2^{HIGHEST}, in more than robust.f = "
                f"{self.bucketing.liars} buckets; nothing was added up",
                rank=0,
            )
        ends = np.cumsum([len(one.tensor_ends) for one in self.wire.ranged])[:-1]
        return {one.name: part for one, part in zip(self.wire.ranged, np.split(every, ends), strict=True)}

    def _collect(self, encoded: EncodedContribution, masks: MaskKeys) -> tuple[tuple[int, ...], Words]:
        comm, me = self.session.group.comm, self.session.group.silo_id
        here = comm.members
        left = {bucket: tuple(silo for silo in bucket if silo in here) for bucket in self._buckets}
        self._left = {whole: silos for whole, silos in left.items() if len(silos) >= FEWEST_IN_BUCKET}
        kept = tuple(self._left.values())
        places = [[here.index(silo) for silo in bucket] for bucket in kept]

        def fold(rows: list[Row], out: NDArray[Any]) -> None:
            for row, bucket in zip(out[: len(places)], places, strict=True):
                reduce_rows([rows[place] for place in bucket], row)
            out[len(places) :] = 0

        self._refuse_too_few(kept)
        self._make_room(len(kept))
        self._send(encoded, mask_set(self._of_bucket(masks, me)), fold)
        words: dict[int, bytes] = {}
        tail = encoded.tail()
        masked_total(comm, tail, mask_set(masks), self._size, held=words)
        if self.spec.recompute:
            self._collection.sums.hold()
        self.bucketing.drawn.newest = kept
        opened = {*self._absent, *(silo for bucket in kept for silo in bucket)}
        survivors = tuple(silo for silo in here if silo in opened)
        parts = [np.frombuffer(words[silo], tail.dtype) for silo in survivors]
        return survivors, np.asarray(np.add.reduce(parts, axis=0, dtype=tail.dtype))

    def _of_bucket(self, masks: MaskKeys, me: int) -> MaskKeys:
        """This silo's self mask, and its masks with every other silo of its bucket."""
        bucket = next((one for one in self._buckets if me in one), (me,))
        found = masks.within(bucket)
        if len(found) != len(bucket):
            raise ProtocolError(f"silo {me} has no masks with some silos of its bucket {list(bucket)}")
        return found

    def _openable(self, left: MaskKeys, told: Told) -> OpenableSum:
        whole = super()._openable(left, told)
        self.rows = tuple(
            replace(whole, left=mask_set(left.within(bucket)), silos=silos, row=place)
            for place, (bucket, silos) in enumerate(self._left.items())
        )
        return whole


class BucketedSecAgg(SecAgg):
    """`Aggregator` whose totals have, in the place of silos' own slices, the means of buckets."""

    def __init__(self, reducer: BucketedSecAggSum) -> None:
        super().__init__(reducer)
        self._in_buckets = reducer

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        size = self._in_buckets.bucketing.size
        return f"{super().description[:-1]}, and all see means of buckets of {size} silos or more)"

    def total(self, index: int) -> Total:
        """See `Aggregator`; the mean is that of all silos in buckets, each of whom counts once."""
        opened = self._opened
        if opened is None:
            raise RuntimeError("nothing was added up")
        there = {block.name for block in self.layout.blocks(index)}
        sums = self._in_buckets.rows
        weights = np.array([len(one.silos) / len(opened.silos) for one in sums])
        rows: dict[str, list[Vector]] = {}
        mean: dict[str, Vector] = {}
        for vector in self.spec.vectors:
            name = vector.name
            rows[name] = [one.block(index, name) if name in there else one.wire.empty(name) for one in sums]
            mean[name] = np.zeros_like(rows[name][0])
            reduce_rows_float(rows[name], mean[name], weights=weights)
        scalars = {name: value / opened.tail.weights for name, value in opened.tail.scalars.items()}
        buckets = tuple(one.silos for one in sums)
        return Total(mean, scalars, len(opened.silos), self.spec.silos, rows=rows, buckets=buckets)
