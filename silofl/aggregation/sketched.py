"""Sums of sketches, of which every rank makes the same step: of what earlier sums have left, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.around import AroundSum
from silofl.aggregation.base import Aggregator, Authorizer
from silofl.aggregation.common_state import share
from silofl.aggregation.compressed import CompressedSum, Compression, compresses, on_every_rank, part_of
from silofl.aggregation.magnitudes import Magnitudes, measure
from silofl.aggregation.residuals import Residuals
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.sum_terms import NOTHING_IN_COMMON, Common
from silofl.aggregation.tail import EncodingQuality
from silofl.comm.elastic_group import ElasticGroup
from silofl.compression.base import Draw, SketchCodec
from silofl.compression.none import NoCodec
from silofl.errors import ConfigError
from silofl.types import Contribution, Total, Vector

EVERY_ROUND = 0
"""The number by which sketches are drawn that have to add up over rounds."""


class SketchedSum(AroundSum):
    """`Aggregator` of a `SketchCodec`: see the module. Every rank has all of the sum (`WholeSums`).

    Sketches are added up by a `CompressedSum` as any vectors are: in `compress.bits`, rotated, and with error
    feedback each silo keeps what rounding took of its own. What a step leaves of the mean is no silo's own:
    all silos have the same before a sum is opened, and those that were not there are given it.

    Args:
        group: the ranks.
        build: makes the aggregator of a spec.
        spec: what is added up.
        compression: with a `SketchCodec`.
        residuals: this silo's, and what silos have in common.
        words: whether sums are of ring words.

    Raises:
        ConfigError: a sketch would be no shorter than a vector, or have no sum in a row.
    """

    def __init__(
        self,
        group: ElasticGroup,
        build: Callable[[AggregationSpec], Aggregator],
        spec: AggregationSpec,
        compression: Compression,
        residuals: Residuals,
        *,
        words: bool,
    ) -> None:
        assert isinstance(compression.codec, SketchCodec), "others have other sums"
        self._codec, self._way, self._residuals = compression.codec, compression, residuals
        self._vectors = [one for one in spec.vectors if compresses(one)]
        for one in self._vectors:
            refusal = self._codec.unfit(one.size)
            if refusal is not None:
                raise ConfigError(refusal)
        inner = replace(spec, vectors=tuple(self._sketch_of(one) for one in spec.vectors))
        way = replace(compression, codec=NoCodec())
        self._sums = CompressedSum(build, inner, way, residuals, words=words, silo=group.silo_id)
        super().__init__(self._sums)
        self.spec, self.served = spec, self._sums.served
        self.layout = on_every_rank(spec, self.served.members)
        self._round, self._before, self._whole = 0, dict[str, Vector](), dict[str, Vector]()
        if compression.keeps_error:
            share(group, residuals)

    def _sketch_of(self, one: VectorSpec) -> VectorSpec:
        if not compresses(one):
            return one
        names = one.tensor_names
        told = f"sketch of {names[0]}" + (f" to {names[-1]}" if len(names) > 1 else "")
        return replace(one, size=self._codec.size(one.size), tensors=(told,), ends=None, shapes=())

    def _key(self, name: str) -> str:
        """Of what is left of a vector's sums, among what silos have in common."""
        return f"{name}/{self._sums.spec.vector(name).tensor_names[0]}"

    def _draw(self, name: str) -> Draw:
        number = EVERY_ROUND if self._way.keeps_error else self._round
        return self._way.draw(self.spec.seed, number, name)

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        return f"{self._sums.description}, of {type(self._codec).__name__}'s sums"

    @property
    def quality(self) -> EncodingQuality:
        """See `Aggregator`."""
        return self._sums.quality

    def reduce(
        self,
        contribution: Contribution,
        round_number: int,
        magnitudes: Magnitudes,
        authorizer: Authorizer | None = None,
        common: Common = NOTHING_IN_COMMON,
    ) -> None:
        """See `Aggregator`."""
        self._round, self._whole, self._before = round_number, {}, self._left_before()
        given = contribution.vectors
        sketches = {
            one.name: self._codec.encode(given[one.name], self._draw(one.name)) for one in self._vectors
        }
        sent = replace(contribution, vectors=dict(given) | sketches)
        common = replace(common, vectors=(*common.vectors, *self._before.values()))
        self._sums.reduce(sent, round_number, measure(sent, self._sums.spec), authorizer, common)

    def _left_before(self) -> dict[str, Vector]:
        """What earlier rounds left of each vector's sums, as long as this round is not over."""
        if not self._way.keeps_error:
            return {}
        found = {}
        for one in self._vectors:
            nothing = np.zeros(self._codec.size(one.size), self.spec.dtype)
            found[one.name] = self._residuals.common.get(self._key(one.name), nothing)
        return found

    def pieces(self, index: int) -> dict[str, NDArray[Any]]:
        """See `WholeSums`."""
        return self._sums.pieces(index)

    def counts(self, name: str) -> list[int]:
        """See `WholeSums`."""
        return self._sums.counts(name)

    def take(self, gathered: Mapping[str, NDArray[Any]]) -> None:
        """See `WholeSums`; once more in the same round it does the same."""
        self._sums.take(gathered)
        whole = {one.name: self._sums.whole(one.name) for one in self.spec.vectors}
        for one in self._vectors:
            sums, draw = whole[one.name], self._draw(one.name)
            if one.name in self._before:
                sums = sums + self._before[one.name]
            step = whole[one.name] = self._codec.decode(sums, draw, one.size)
            if self._way.keeps_error:
                self._residuals.common[self._key(one.name)] = self._codec.left(sums, step, draw)
        self._whole = whole

    def total(self, index: int) -> Total:
        """See `Aggregator`; of any slice."""
        if not self._whole:
            raise RuntimeError("nothing was added up, or its pieces were not gathered")
        mean = part_of(self.layout, self._whole, index)
        scalars = self._sums.total(index).scalars if self.spec.scalars else {}
        return Total(mean, scalars, len(self.participants), self.spec.silos)
