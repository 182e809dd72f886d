"""The sum in the clear: rank k sees every silo's slice k. For comparison and for trusted settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Authorizer, authorize, total_of
from silofl.aggregation.exchanges import Row
from silofl.aggregation.formats import format_of
from silofl.aggregation.layout import Block, Layout
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.reduce_scatter import Fill, Fold, ReduceScatter
from silofl.aggregation.shards import Shards, near_of
from silofl.aggregation.spec import AggregationSpec
from silofl.aggregation.sum_terms import NOTHING_IN_COMMON, Common
from silofl.aggregation.tail import EncodingQuality, valid_weight
from silofl.aggregation.warm_up import compile_plain
from silofl.comm.elastic_group import ElasticGroup
from silofl.errors import DataError
from silofl.types import Contribution, Total, Vector, Weighting
from silofl_kernels import reduce_rows, reduce_rows_float, scale_into

WORDS = np.dtype(np.uint32)
"""Type of ring integers in the clear."""


class PlainAggregator:
    """Weighted means by an all-to-all of slices and a sum in rank order.

    The order of additions is fixed and accumulates in float64, so the bits depend neither on the MPI
    library nor on how many ranks share a node. Vectors of words are added up modulo 2^32; an aggregator has
    vectors of floats or of words, never both. Where the spec asks for rows, slices of floats travel
    unweighted and lie in memory once for each silo.
    """

    def __init__(self, group: ElasticGroup, spec: AggregationSpec, *, chunk: int | None = None) -> None:
        self._group, self.spec = group, spec
        self.quality = EncodingQuality()
        near = near_of(group.comm)
        shards = Shards(0, group.members, spec.replica_count, sole=spec.sole, near=near)
        self.layout = Layout(spec.vectors, {one.name: 1 for one in spec.vectors}, shards)
        by_round = any(one.weighting == "round" for one in spec.vectors)
        self._varies = by_round or bool(spec.scalars)
        """Whether weights or scalars are others in every round."""
        self._words = any(format_of(one).in_words for one in spec.vectors)
        self._dtype: np.dtype[Any] = WORDS if self._words else spec.dtype
        self._chunk = chunk
        self.participants = group.members
        self._absent: tuple[int, ...] = ()
        """Silos of the sum that bring nothing to it."""
        self._collection: ReduceScatter | None = None
        self._own_shares: dict[str, float] = {}
        """By vector: this silo's part of the mean."""
        self._shares: dict[Weighting, NDArray[np.float64]] = {}
        """By weighting: every silo's part of a mean, in the order of members, where rows are kept."""
        self._places: list[bool] = []
        """Of every row whether its silo brings something."""
        self._scalars: dict[str, float] = {}
        compile_plain(spec)
        self._weigh(Contribution({}))

    def _weigh(self, contribution: Contribution) -> None:
        """Learn the sums of sample counts, of the round's weights, and of weighed scalars; collective."""
        self._weighed_by = self._group.comm, self._absent
        names, absent = self.spec.scalars, self._group.silo_id in self._absent
        samples, weight = (0.0, 0.0) if absent else (float(self.spec.samples), contribution.weight)
        scalars = [contribution.scalars.get(name, 0.0) for name in names]
        unfit = [not (absent or valid_weight(weight)), *(not math.isfinite(one) for one in scalars)]
        sums, bad = np.split(
            self._group.comm.allreduce(
                np.array([samples, weight, *(samples * one for one in scalars), *unfit])
            ),
            [2 + len(names)],
        )
        if bad.any():
            which = ("weight of the round", *names)[int(np.flatnonzero(bad)[0])]
            raise DataError(f"a silo's {which} is not finite, or too large; nothing was added up", rank=0)
        self.summed_samples, self._round_weight = map(float, sums[:2])
        self._scalars = {
            name: float(total) / (self.summed_samples or math.nan)  # of nobody it is not read
            for name, total in zip(self.spec.scalars, sums[2:], strict=True)
        }

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        if not self.spec.rows:
            return "plain (every rank sees a slice of every update)"
        slices = min(1 + self.spec.replica_count, self._group.comm.size)
        seen = "a slice" if slices == 1 else f"{slices} slices"
        return f"plain (every rank sees, and keeps for the round, {seen} of every update)"

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
        """See `Aggregator`; the round does not matter here."""
        as_they_are = self._words or self.spec.rows
        self._absent = common.absent

        def fill(first: int, last: int, row: NDArray[Any]) -> None:
            for block in self.layout.within(first, last):
                values = contribution.vectors[block.name][block.first : block.last]
                part = row[block.start - first : block.stop - first]
                if as_they_are:
                    part[:] = values
                else:
                    scale_into(values, self._own_shares[block.name], part)

        fold: Fold = reduce_rows if self._words else _keep_rows if self.spec.rows else reduce_rows_float
        self._collect(fill, fold, contribution)
        authorize(self._group, authorizer, self.participants)

    def _share(self, weighting: Weighting, contribution: Contribution) -> float:
        """This silo's part of a mean."""
        if self._group.silo_id in self._absent:
            return 0.0
        if weighting == "samples":
            return self.spec.samples / self.summed_samples
        if weighting == "uniform":
            return 1.0 / len(self._present())
        return contribution.weight / self._round_weight

    def _present(self) -> tuple[int, ...]:
        """The silos that are there and bring something."""
        return tuple(silo for silo in self._group.members if silo not in self._absent)

    def _collect(self, fill: Fill, fold: Fold, contribution: Contribution) -> None:
        def collect() -> tuple[int, ...]:
            comm = self._group.comm
            if self._collection is None or self._collection.comm is not comm:
                kept = comm.size if self.spec.rows else None
                grouped = comm.tree is not None and not self.spec.rows
                adds = self._words or grouped
                self._collection = ReduceScatter(
                    comm, self.layout.shards, self._dtype, chunk=self._chunk, kept=kept, adds=adds
                )
            if self._weighed_by != (comm, self._absent) or self._varies:
                self._weigh(contribution)
            self._own_shares = {
                one.name: self._share(one.weighting, contribution) for one in self.spec.vectors
            }
            if self.spec.rows:
                self._shares = self._all_shares(contribution)
            self._collection.run(fill, fold)
            self._places = [silo not in self._absent for silo in self._group.members]
            return self._present()

        self.participants = self._group.step(collect)

    def _all_shares(self, contribution: Contribution) -> dict[Weighting, NDArray[np.float64]]:
        """Every silo's part of each kind of mean; collective."""
        kinds = tuple(dict.fromkeys(one.weighting for one in self.spec.vectors))
        own = np.array([self._share(kind, contribution) for kind in kinds])
        given = np.array([np.frombuffer(one) for one in self._group.comm.allgather_bytes(own.tobytes())])
        return dict(zip(kinds, np.ascontiguousarray(given.T), strict=True))

    def total(self, index: int) -> Total:
        """See `Aggregator`."""
        collection = self._collection
        if collection is None:
            raise RuntimeError("nothing was added up")
        start, values = self.layout.shards.bounds[index], collection.sums.of(index)
        rows: dict[str, list[Vector]] = {}

        def read(block: Block) -> NDArray[Any]:
            part = values[..., block.start - start : block.stop - start]
            if not self.spec.rows:
                return part
            part.flags.writeable = False  # ranks of one node share it
            rows[block.name] = list(compress(part, self._places))
            mean = np.empty(part.shape[1], part.dtype)
            reduce_rows_float(part, mean, weights=self._shares[self.spec.vector(block.name).weighting])
            return mean

        def empty(name: str) -> NDArray[Any]:
            rows[name] = [np.empty(0, self._dtype) for _ in self.participants]
            return np.empty(0, self._dtype)

        total = total_of(self, index, read, empty, self._scalars)
        if not self.spec.rows:
            return total
        weights = {one.name: self._shares[one.weighting][self._places] for one in self.spec.vectors}
        return replace(total, rows=rows, weights=weights)

    def sum_scalars(
        self, values: NDArray[np.float64], made_from: Sequence[Vector] = ()
    ) -> NDArray[np.float64]:
        """See `Aggregator`."""
        return self._group.step(lambda: self._group.comm.allreduce(values))

    def close(self) -> None:
        """Release the buffers."""
        if self._collection is not None:
            self._collection.close()


def _keep_rows(rows: list[Row], out: NDArray[Any]) -> None:
    np.stack(rows, out=out)
