"""Sums of matrices in factors: two sums a round, of which the first decides what the second is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Aggregator, Authorizer, Claim
from silofl.aggregation.compressed import CompressedSum, Compression, compresses, on_every_rank, part_of
from silofl.aggregation.gathered_sums import gather_sums
from silofl.aggregation.magnitudes import Magnitudes, measure
from silofl.aggregation.residuals import Residuals
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.sum_terms import NOTHING_IN_COMMON, Common
from silofl.aggregation.tail import EncodingQuality
from silofl.comm.elastic_group import ElasticGroup
from silofl.compression.base import FactorCodec
from silofl.compression.none import NoCodec
from silofl.errors import ConfigError, OtherSilosError, StoppedError
from silofl.types import Contribution, Total, Vector
from silofl_kernels import Stream, keystream

REST = " without factors"
"""Behind the name of a vector: what of it has no factors."""


@dataclass(frozen=True)
class Factors:
    """One tensor that has factors.

    Attributes:
        name: of its second factor, among what silos have in common.
        place: of its values in the vector.
        rows, columns, rank: of its factors.
    """

    name: str
    place: slice
    rows: int
    columns: int
    rank: int

    def matrix(self, vector: Vector) -> Vector:
        """Its values (rows, columns), a view of a vector."""
        return vector[self.place].reshape(self.rows, self.columns)


class FactoredSum:
    """`Aggregator` of a codec that has factors: see the module. Every rank has all of the sum (`WholeSums`).

    Args:
        group: the ranks.
        build: makes the aggregator of a spec.
        spec: what is added up.
        compression: with a `FactorCodec`.
        residuals: this silo's.
        words: whether sums are of ring words.

    Raises:
        ConfigError: no tensor would be shorter by its factors.
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
        assert isinstance(compression.codec, FactorCodec), "others have one sum"
        self._group, self.spec, self._way, self._residuals = group, spec, compression, residuals
        self._codec: FactorCodec = compression.codec
        self._words = words
        vectors = [one for one in spec.vectors if compresses(one)]
        refusal = unfit(vectors, compression.codec)
        if refusal is not None:
            raise ConfigError(refusal)
        self._factors = {one.name: list(_factors_of(one, compression.codec)) for one in vectors}
        self._rest = {one.name: _without(one, self._factors[one.name]) for one in vectors}
        for one in (factor for factors in self._factors.values() for factor in factors):
            residuals.common.pop(one.name, None)  # all silos begin anew whenever aggregators are made
        way = replace(compression, codec=NoCodec(), keeps_error=False)
        common = Residuals()

        def sums(of: tuple[VectorSpec, ...], scalars: tuple[str, ...]) -> CompressedSum:
            given = replace(spec, vectors=of, scalars=scalars)
            return CompressedSum(build, given, way, common, words=words, silo=group.silo_id)

        self._first = sums(tuple(self._firsts(vectors)), ())
        self._second = sums((*self._seconds(vectors), *self._others(vectors)), spec.scalars)
        self.served = self._second.served
        self.layout = on_every_rank(spec, self.served.members)
        self._bases: dict[str, Vector] = {}
        self._whole: dict[str, Vector] = {}
        self._closed = False
        """Whether the second sum stayed closed."""

    def _firsts(self, vectors: Sequence[VectorSpec]) -> Iterator[VectorSpec]:
        for one in vectors:
            size = sum(factor.rows * factor.rank for factor in self._factors[one.name])
            yield replace(one, size=size, tensors=(f"first factors of {one.name}",), ends=None, shapes=())

    def _seconds(self, vectors: Sequence[VectorSpec]) -> Iterator[VectorSpec]:
        for one in vectors:
            size = sum(factor.columns * factor.rank for factor in self._factors[one.name])
            yield replace(one, size=size, tensors=(f"second factors of {one.name}",), ends=None, shapes=())

    def _others(self, vectors: Sequence[VectorSpec]) -> Iterator[VectorSpec]:
        """What has no factors: short tensors in a vector of their own, and what is not compressed."""
        for one in vectors:
            name, size = one.name + REST, len(self._rest[one.name])
            if size:
                yield replace(one, name=name, size=size, tensors=(name,), ends=None, shapes=())
        yield from (one for one in self.spec.vectors if not compresses(one))

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        return f"{self._second.description}, of {type(self._codec).__name__}'s factors in two sums"

    @property
    def quality(self) -> EncodingQuality:
        """See `Aggregator`."""
        return EncodingQuality() if self._closed else self._second.quality

    @property
    def participants(self) -> tuple[int, ...]:
        """See `Aggregator`."""
        return self._group.members if self._closed else self._second.participants

    @property
    def summed_samples(self) -> float:
        """See `Aggregator`."""
        return self._second.summed_samples

    def prepare(self) -> None:
        """See `Aggregator`."""
        self._first.prepare()
        self._second.prepare()

    def reduce(
        self,
        contribution: Contribution,
        round_number: int,
        magnitudes: Magnitudes,
        authorizer: Authorizer | None = None,
        common: Common = NOTHING_IN_COMMON,
    ) -> None:
        """See `Aggregator`."""
        self._residuals.begin()
        self._whole, self._closed = {}, False
        absent, given = self._group.silo_id in common.absent, dict(contribution.vectors)
        if not absent:
            given |= {one.name: self._residuals.added(one, given[one.name]) for one in self._vectors}
        first = {one.name: self._firsts_of(one, given[one.name], round_number) for one in self._vectors}
        self._add_up(
            self._first, Contribution(first, {}, contribution.weight), round_number, authorizer, common
        )
        silos = self._first.participants
        self._group.step(lambda: gather_sums(self._group.comm, self._group.silo_id, self._first))
        self._bases = {}
        for one in self._vectors:
            self._bases |= self._bases_of(one, self._first.whole(one.name))

        def same(those: tuple[int, ...]) -> Claim | None:
            if self._words and those != silos:
                raise OtherSilosError("a silo is lost between two sums of one round", rank=0)
            return None if authorizer is None else authorizer(those)

        sent = {one.name: self._seconds_of(one, given[one.name]) for one in self._vectors}
        others = {one.name + REST: given[one.name][self._rest[one.name]] for one in self._vectors}
        kept = {name: values for name, values in (others | given).items() if name not in sent}
        try:
            self._add_up(self._second, replace(contribution, vectors=kept | sent), round_number, same, common)
        except OtherSilosError:
            if self.spec.scalars:
                raise StoppedError(
                    "a silo is lost between two sums of one round, whose scalars stay closed; --resume "
                    "repeats the round",
                    rank=0,
                ) from None
            self._closed = True
        for one in self._vectors if not absent else ():
            self._residuals.propose(one, self._left(one, given[one.name], sent[one.name]))

    def _add_up(
        self,
        sums: CompressedSum,
        contribution: Contribution,
        round_number: int,
        authorizer: Authorizer | None,
        common: Common,
    ) -> None:
        named = {one.name: contribution.vectors[one.name] for one in sums.spec.vectors}
        given = replace(contribution, vectors=named)
        sums.reduce(given, round_number, measure(given, sums.spec), authorizer, common)

    @property
    def _vectors(self) -> list[VectorSpec]:
        return [one for one in self.spec.vectors if compresses(one)]

    def _firsts_of(self, one: VectorSpec, values: Vector, round_number: int) -> Vector:
        found = [np.empty(0, values.dtype)]
        for factor in self._factors[one.name]:
            before = self._residuals.common.get(factor.name)
            if before is None:
                before = self._anew(factor, round_number)
            found.append(self._codec.first(factor.matrix(values), before.astype(values.dtype)).reshape(-1))
        return np.concatenate(found)

    def _anew(self, factor: Factors, round_number: int) -> Vector:
        """A second factor (columns, rank) that all silos draw, by arithmetic that is exact."""
        draw = self._way.draw(self.spec.seed, round_number, factor.name)
        words = np.empty(factor.columns * factor.rank, np.uint32)
        keystream(Stream("aes-128-ctr", draw.key), words.view(np.uint8))
        return (words.astype(np.float64) / 2.0**31 - 1).reshape(factor.columns, factor.rank)

    def _bases_of(self, one: VectorSpec, mean: Vector) -> dict[str, Vector]:
        found, at = {}, 0
        for factor in self._factors[one.name]:
            count = factor.rows * factor.rank
            part = mean[at : at + count].reshape(factor.rows, factor.rank)
            found[factor.name], at = self._codec.basis(part), at + count
        return found

    def _seconds_of(self, one: VectorSpec, values: Vector) -> Vector:
        found = [np.empty(0, values.dtype)]
        for factor in self._factors[one.name]:
            second = self._codec.second(factor.matrix(values), self._bases[factor.name])
            found.append(second.astype(values.dtype).reshape(-1))
        return np.concatenate(found)

    def _cut(self, one: VectorSpec, seconds: Vector) -> Iterator[tuple[Factors, Vector]]:
        """Second factors (columns, rank) of all tensors of a vector that have some."""
        at = 0
        for factor in self._factors[one.name]:
            count = factor.columns * factor.rank
            yield factor, seconds[at : at + count].reshape(factor.columns, factor.rank)
            at += count

    def _left(self, one: VectorSpec, values: Vector, seconds: Vector) -> Vector:
        """What of this silo's values (d,), which may be written over, is in no sum."""
        if self._closed:
            return values
        values[self._rest[one.name]] = 0
        for factor, second in self._cut(one, seconds):
            self._codec.add_product(factor.matrix(values), self._bases[factor.name], second, -1.0)
        return values

    def pieces(self, index: int) -> dict[str, NDArray[Any]]:
        """See `WholeSums`."""
        return {} if self._closed else self._second.pieces(index)

    def counts(self, name: str) -> list[int]:
        """See `WholeSums`."""
        return self._second.counts(name)

    def take(self, gathered: Mapping[str, NDArray[Any]]) -> None:
        """See `WholeSums`."""
        if self._closed:
            self._whole = {one.name: np.zeros(one.size, self.spec.dtype) for one in self.spec.vectors}
            return
        self._second.take(gathered)
        for one in self.spec.vectors:
            if not compresses(one):
                self._whole[one.name] = self._second.whole(one.name)
                continue
            whole, rest = np.zeros(one.size, self.spec.dtype), self._rest[one.name]
            if len(rest):
                whole[rest] = self._second.whole(one.name + REST)
            for factor, second in self._cut(one, self._second.whole(one.name)):
                self._codec.add_product(factor.matrix(whole), self._bases[factor.name], second, 1.0)
                self._residuals.common[factor.name] = second.astype(np.float64)
            self._whole[one.name] = whole

    def total(self, index: int) -> Total:
        """See `Aggregator`; of any slice."""
        if not self._whole:
            raise RuntimeError("nothing was added up, or its pieces were not gathered")
        mean = part_of(self.layout, self._whole, index)
        scalars = {} if self._closed or not self.spec.scalars else self._second.total(index).scalars
        return Total(mean, scalars, len(self.participants), self.spec.silos)

    def sum_scalars(
        self, values: NDArray[np.float64], made_from: Sequence[Vector] = ()
    ) -> NDArray[np.float64]:
        """See `Aggregator`."""
        return self._second.sum_scalars(values, made_from)

    def close(self) -> None:
        """See `Aggregator`."""
        self._first.close()
        self._second.close()


def _without(one: VectorSpec, factors: Sequence[Factors]) -> NDArray[np.int64]:
    """int64, ascending: places of a vector that no factors stand for."""
    kept = np.ones(one.size, np.bool_)
    for factor in factors:
        kept[factor.place] = False
    return np.flatnonzero(kept)


def _factors_of(one: VectorSpec, codec: FactorCodec) -> Iterator[Factors]:
    """The tensors of a vector that have factors."""
    bounds = pairwise([0, *one.tensor_ends.tolist()])
    for name, shape, (start, stop) in zip(one.tensor_names, one.shapes, bounds, strict=False):
        found = codec.factored(shape)
        if found is not None and found[0] * found[1] == stop - start:
            yield Factors(f"{one.name}/{name}", slice(start, stop), *found)


def unfit(vectors: Sequence[VectorSpec], codec: FactorCodec) -> str | None:
    """That a rank makes no tensor shorter, with the largest of them; None where it does."""
    if any(True for one in vectors for _ in _factors_of(one, codec)):
        return None
    shapes = [shape for one in vectors for shape in one.shapes if len(shape) > 1]
    rank = getattr(codec, "rank", 0)
    if not shapes:
        return 'compress.name is of matrices, and the model has none: choose another, such as "random_k"'
    rows, columns = max(((s[0], int(np.prod(s[1:]))) for s in shapes), key=lambda pair: pair[0] * pair[1])
    most = max((rows * columns - 1) // (rows + columns), 1)
    return (
        f"compress.rank = {rank} makes no matrix shorter, and the largest has {rows} rows and {columns} "
        f"columns: set compress.rank to {most} or less, or choose another compress.name"
    )
