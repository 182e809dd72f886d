"""Sums of what is left of a pruned model: shorter vectors, around any aggregator that all ranks have whole.

Silos have the mask in common, so that no index travels. What is pruned is in no sum, and its mean is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.around import AroundSum
from silofl.aggregation.base import Aggregator, Authorizer
from silofl.aggregation.compressed import WholeSums, compresses, on_every_rank, part_of
from silofl.aggregation.magnitudes import Magnitudes, measure
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.sum_terms import NOTHING_IN_COMMON, Common
from silofl.aggregation.tail import EncodingQuality
from silofl.types import Contribution, Mask, Total, Vector


def pruned_spec(spec: AggregationSpec, kept: Mask) -> AggregationSpec:
    """What is added up of parameters of which those are left that are `kept` (P,)."""
    vectors = tuple(shortened(one, kept) if compresses(one) else one for one in spec.vectors)
    return replace(spec, vectors=vectors)


def shortened(one: VectorSpec, kept: Mask) -> VectorSpec:
    """A vector (P,) without what is pruned; a tensor of which whole rows are pruned is a matrix still."""
    left = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
    ends = left[one.tensor_ends]
    bounds = pairwise([0, *one.tensor_ends.tolist()])
    shapes = tuple(
        _left_of(shape, kept[start:stop]) for shape, (start, stop) in zip(one.shapes, bounds, strict=False)
    )
    return replace(one, size=int(left[-1]), ends=ends, shapes=shapes)


def _left_of(shape: tuple[int, ...], kept: Mask) -> tuple[int, ...]:
    """The shape of what is left of a tensor; one dimension where that is no tensor of whole rows."""
    count = int(kept.sum())
    if len(shape) > 1 and kept.size == np.prod(shape):
        rows = kept.reshape(shape[0], -1)
        if (rows == rows[:, :1]).all():
            return (int(rows[:, 0].sum()), *shape[1:])
    return (count,)


class PrunedSum(AroundSum):
    """`Aggregator` around another one: see the module. Every rank has all of the sum (`WholeSums`).

    Args:
        inner: of `pruned_spec`, one of `WholeSums`.
        spec: the vectors as they are outside.
        kept: which of the parameters are left (P,).
    """

    def __init__(self, inner: Aggregator, spec: AggregationSpec, kept: Mask) -> None:
        super().__init__(inner)
        assert isinstance(inner, WholeSums), "made for sums that every rank takes whole"
        self._sums: WholeSums = inner
        self.spec, self.kept = spec, kept
        self.served = inner.served
        self.layout = on_every_rank(spec, self.served.members)
        self._whole: dict[str, Vector] = {}

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        return f"{self._inner.description}, of weights that are left"

    @property
    def quality(self) -> EncodingQuality:
        """See `Aggregator`."""
        return self._inner.quality

    def reduce(
        self,
        contribution: Contribution,
        round_number: int,
        magnitudes: Magnitudes,
        authorizer: Authorizer | None = None,
        common: Common = NOTHING_IN_COMMON,
    ) -> None:
        """See `Aggregator`."""
        self._whole = {}
        short = {one.name: contribution.vectors[one.name][self.kept] for one in self._pruned}
        given = replace(contribution, vectors={**contribution.vectors, **short})
        measured = measure(given, self._inner.spec)
        self._inner.reduce(given, round_number, measured, authorizer, common)

    @property
    def _pruned(self) -> list[VectorSpec]:
        return [one for one in self.spec.vectors if compresses(one)]

    def pieces(self, index: int) -> dict[str, NDArray[Any]]:
        """See `WholeSums`."""
        return self._sums.pieces(index)

    def counts(self, name: str) -> list[int]:
        """See `WholeSums`."""
        return self._sums.counts(name)

    def take(self, gathered: Mapping[str, NDArray[Any]]) -> None:
        """See `WholeSums`."""
        self._sums.take(gathered)
        parts = [self._inner.total(index).mean for index in range(len(self.served.members))]
        for one in self.spec.vectors:
            mean = np.concatenate([part[one.name] for part in parts])
            if compresses(one):
                mean, short = np.zeros(one.size, self.spec.dtype), mean
                mean[self.kept] = short
            self._whole[one.name] = mean

    def total(self, index: int) -> Total:
        """See `Aggregator`; of any slice."""
        if not self._whole:
            raise RuntimeError("nothing was added up, or its pieces were not gathered")
        return replace(self._inner.total(index), mean=part_of(self.layout, self._whole, index))
