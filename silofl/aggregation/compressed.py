"""Sums of compressed contributions: shorter vectors, of fewer bits, around any aggregator.

What is added up is what a codec (`silofl/compression/`) has made of each vector, rotated where that is asked
for, in the number format `formats/packed.py` where sums are of ring words. All ranks are given all of the sum
in the form in which it was added up, which is shorter than the vectors that it stands for: so each of them
decodes the whole, and steps it (`topologies/sharded_server.py`).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.around import AroundSum
from silofl.aggregation.base import Aggregator, Authorizer
from silofl.aggregation.formats.packed import HALF_LEVEL
from silofl.aggregation.layout import Layout
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.residuals import Residuals
from silofl.aggregation.shards import Shards
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.sum_terms import NOTHING_IN_COMMON, Common
from silofl.aggregation.tail import EncodingQuality
from silofl.aggregation.transformed import TransformedSum
from silofl.compression import registry
from silofl.compression.base import KEY_BYTES, Codec, Draw
from silofl.config import CompressConfig
from silofl.errors import ProtocolError
from silofl.types import Contribution, Total, Vector, Words
from silofl_kernels import Stream, max_abs, rotate, unrotate

IN_FIELDS = ("packed", "counts")
"""Formats whose sums are read as words, of several values each."""
GROUP = 1 << 15
"""Values that have a range of their own at least: to agree on one takes 1.3 kB."""
WHOLE_NUMBER = 1e-6
"""How far a count that was added up may be off one."""
SQUARED = 1 << 16
"""Values that are squared at a time, in float64."""
ROTATION_KEY = b"silofl codec rot"  # 16 bytes; with the round's in front of it


@runtime_checkable
class WordSums(Protocol):
    """An `Aggregator` of ring words, whose "packed" vectors can be read as words."""

    @property
    def residuals(self) -> Mapping[str, Vector]:
        """By vector: what rounding took of this silo's values in the last sum, (d,)."""

    def levels(self, name: str, share: float) -> float:
        """How many levels a "packed" vector's ranges have for a silo of that part of all samples."""

    def spread(self, name: str) -> float:
        """How many root mean squares of a "packed" vector's tensors a range that keeps errors holds."""

    def words(self, index: int, name: str) -> Words:
        """The sum of one vector's part of slice `index`, unmasked; see `Aggregator.total`."""

    def decoded(self, name: str, words: Words) -> Vector:
        """The mean (d,) of a whole vector, from the `words` of all slices one after another."""


@runtime_checkable
class WholeSums(Protocol):
    """An `Aggregator` that gives every rank all of a sum, once its pieces were gathered.

    Attributes:
        served: which rank has which piece.
    """

    served: Shards

    def pieces(self, index: int) -> dict[str, NDArray[Any]]:
        """What is to be gathered of slice `index`, by vector; this rank serves it or keeps a replica."""

    def counts(self, name: str) -> list[int]:
        """How long each slice's piece of a vector is."""

    def take(self, gathered: Mapping[str, NDArray[Any]]) -> None:
        """Take up all pieces of every vector, one after another: `total` gives any slice from here on."""


@dataclass(frozen=True)
class Compression:
    """What [compress] does to the vectors of a sum."""

    codec: Codec
    bits: int | None
    rotation: bool
    keeps_error: bool

    @classmethod
    def of(cls, config: CompressConfig) -> Compression | None:
        """That of a configuration; None where nothing is compressed."""
        if not config.active:
            return None
        return cls(registry.build(config), config.bits, config.rotation, config.error_feedback)

    def draw(self, seed: int, round_number: int, name: str) -> Draw:
        """What the random choices for a vector of a round are made from."""
        place = struct.pack(">QQ", seed, round_number) + name.encode()
        key = hashlib.sha256(b"silofl codec" + place).digest()[:KEY_BYTES]
        return Draw(key, self.keeps_error)

    def inner_spec(self, spec: AggregationSpec, *, words: bool, small: int = 0) -> AggregationSpec:
        """What is added up in place of `spec`, in ring `words` or in floats; `small`: see `VectorSpec`."""
        return replace(spec, vectors=tuple(self._shortened(one, words, small) for one in spec.vectors))

    def _shortened(self, one: VectorSpec, words: bool, small: int) -> VectorSpec:
        if not compresses(one):
            return one
        form = replace(
            one,
            size=self.codec.size(one.size),
            format="packed" if words else one.format,
            bits=self.bits,
            keeps_error=self.keeps_error,
            small=small,
        )
        if self.codec.in_place and not self.rotation:
            return grouped(form)
        return replace(form, tensors=(f"all of {one.name}",), ends=None)


def compresses(one: VectorSpec) -> bool:
    """Whether a vector is compressed: buffers, which travel exactly, are not."""
    return one.format == "scaled"


def on_every_rank(spec: AggregationSpec, members: tuple[int, ...]) -> Layout:
    """Slices of vectors of which every rank steps all, so that each has the state of all."""
    others = len(members) - 1
    shards = Shards(0, members, min(others, spec.replica_count), checkers=others)
    return Layout(spec.vectors, {one.name: 1 for one in spec.vectors}, shards)


def part_of(layout: Layout, whole: Mapping[str, Vector], index: int) -> dict[str, Vector]:
    """Slice `index` of whole vectors (d_name,), as views."""
    return {name: values[slice(*layout.spans[name].span(index))] for name, values in whole.items()}


def grouped(one: VectorSpec) -> VectorSpec:
    """The same vector with a range for several tensors, so that ranges are a small part of what is sent.

    Tensors that follow each other have one until they are `GROUP` values together, or the last ones.
    """
    names, ends = one.tensor_names, one.tensor_ends.tolist()
    kept: list[int] = []
    for place, end in enumerate(ends):
        if end - (ends[kept[-1]] if kept else 0) >= GROUP:
            kept.append(place)
    kept = [*kept[:-1], len(ends) - 1] if kept else [len(ends) - 1]
    firsts = [0, *(place + 1 for place in kept[:-1])]
    told = [
        names[last] if first == last else f"{names[first]} to {names[last]}"
        for first, last in zip(firsts, kept, strict=True)
    ]
    return replace(one, tensors=tuple(told), ends=one.tensor_ends[kept])


class CompressedSum(AroundSum):
    """`Aggregator` around another one: see the module.

    Args:
        build: makes the aggregator of a spec.
        spec: the vectors as they are outside.
        compression: what is done to them.
        residuals: this silo's, which error feedback adds.
        words: whether sums are of ring words.
        silo: this one.
    """

    def __init__(
        self,
        build: Callable[[AggregationSpec], Aggregator],
        spec: AggregationSpec,
        compression: Compression,
        residuals: Residuals,
        *,
        words: bool,
        silo: int,
    ) -> None:
        self.spec, self._way, self._residuals, self._silo = spec, compression, residuals, silo
        super().__init__(self._made(build, words=words))
        self.served: Shards = self._inner.layout.shards
        self.layout = on_every_rank(spec, self.served.members)
        self._round = 0
        self._whole: dict[str, Vector] = {}

    def _made(self, build: Callable[[AggregationSpec], Aggregator], *, words: bool) -> Aggregator:
        """The aggregator inside, for as many silos of few samples as there are; collective.

        Rounding to nearest would make zeros of all that such a silo has, and what it cannot send would grow
        for ever: it has a level of its own, for which all others have fewer, so that sums fit. How many they
        are is added up like other numbers; who they are is not told. With fewer levels they may be more.
        """
        small = 0
        while True:
            inner = build(self._way.inner_spec(self.spec, words=words, small=small))
            if not (isinstance(inner, WordSums) and self._way.keeps_error):
                return inner
            own = self.spec.samples / inner.summed_samples
            packed = [one.name for one in inner.spec.vectors if one.format == "packed"]
            self._levels = {name: inner.levels(name, own) for name in packed}
            less = any(levels < HALF_LEVEL for levels in self._levels.values())
            found = float(inner.sum_scalars(np.array([float(less)]))[0])
            if not 0 <= found <= self.spec.silos or abs(found - round(found)) > WHOLE_NUMBER:
                raise ProtocolError(
                    "how many silos have few samples is no number of silos: one of them states it wrongly",
                    rank=0,
                )
            if round(found) <= small:
                return inner
            inner.close()
            small = round(found)

    @property
    def description(self) -> str:
        """The protocol in a few words."""
        codec = type(self._way.codec).__name__
        bits = "" if self._way.bits is None else f", {self._way.bits} bits a value"
        rotated = ", rotated" if self._way.rotation else ""
        return f"{self._inner.description}, through {codec}{rotated}{bits}"

    @property
    def quality(self) -> EncodingQuality:
        """See `Aggregator`; that rounding takes more than 1 % is what was asked for."""
        return replace(self._inner.quality, coarse=None)

    def reduce(
        self,
        contribution: Contribution,
        round_number: int,
        magnitudes: Magnitudes,
        authorizer: Authorizer | None = None,
        common: Common = NOTHING_IN_COMMON,
    ) -> None:
        """See `Aggregator`."""
        self._round, self._whole = round_number, {}
        self._residuals.begin()
        absent, whole = self._silo in common.absent, dict(contribution.vectors)
        if self._way.keeps_error and not absent:  # of a silo that sits a round out nothing travels
            whole |= {one.name: self._residuals.added(one, whole[one.name]) for one in self._compressed}
        inner = self.sent(replace(contribution, vectors=whole), round_number)
        sent = inner.vectors
        self._inner.reduce(inner, round_number, self._magnitudes(inner, magnitudes), authorizer, common)
        if self._way.keeps_error and not absent:
            for one in self._compressed:
                self._residuals.propose(one, self._left(one, whole[one.name], sent[one.name]))

    def sent(self, contribution: Contribution, round_number: int) -> Contribution:
        """What the codec makes of a contribution; not collective."""
        self._round, vectors = round_number, contribution.vectors
        made = {one.name: self._encode(one, vectors[one.name]) for one in self._compressed}
        return replace(contribution, vectors=dict(vectors) | made)

    def round_off(self, contribution: Contribution, round_number: int) -> Words:
        """See `TransformedSum`, around which this one is."""
        assert isinstance(self._inner, TransformedSum), "made for sums with noise"
        return self._inner.round_off(self.sent(contribution, round_number), round_number)

    @property
    def _compressed(self) -> list[VectorSpec]:
        return [one for one in self.spec.vectors if compresses(one)]

    def _draw(self, name: str) -> Draw:
        return self._way.draw(self.spec.seed, self._round, name)

    def _rotation(self, name: str) -> Stream:
        return Stream("aes-128-ctr", hashlib.sha256(ROTATION_KEY + self._draw(name).key).digest()[:KEY_BYTES])

    def _encode(self, one: VectorSpec, values: Vector) -> Vector:
        sent = self._way.codec.encode(values, self._draw(one.name))
        if self._way.rotation:
            sent = sent.copy() if sent is values else sent
            rotate(sent, self._rotation(one.name))
        return sent

    def _decode(self, one: VectorSpec, sent: Vector) -> Vector:
        """`sent` may be written over."""
        if self._way.rotation:
            unrotate(sent, self._rotation(one.name))
        return self._way.codec.decode(sent, self._draw(one.name), one.size)

    def _left(self, one: VectorSpec, values: Vector, sent: Vector) -> Vector:
        """What the sum has not of this silo's values (d,), which may be written over."""
        lost = self._inner.residuals.get(one.name) if isinstance(self._inner, WordSums) else None
        own = sent.copy() if lost is None else sent - lost
        if self._way.rotation:
            unrotate(own, self._rotation(one.name))
        return self._way.codec.remainder(values, own, self._draw(one.name))

    def _magnitudes(self, inner: Contribution, given: Magnitudes) -> Magnitudes:
        """What ranges have to hold of what is sent."""
        found = dict(given)
        for one in self._inner.spec.vectors:
            values = inner.vectors[one.name]
            if compresses(self.spec.vector(one.name)):
                found[one.name] = max_abs(values, one.tensor_ends)
            if one.format == "packed" and one.keeps_error:
                assert isinstance(self._inner, WordSums), "made for ring words"
                most = self._inner.spread(one.name) * _root_mean_squares(values, one.tensor_ends)
                levels = self._levels[one.name]
                most *= levels if levels < HALF_LEVEL else 1.0  # whose one level holds the rest of it
                found[one.name] = np.minimum(found[one.name], most)
        return found

    def pieces(self, index: int) -> dict[str, NDArray[Any]]:
        """See `WholeSums`."""
        total = None
        found: dict[str, NDArray[Any]] = {}
        for one in self._inner.spec.vectors:
            if one.format in IN_FIELDS:
                assert isinstance(self._inner, WordSums), "made for ring words"
                found[one.name] = self._inner.words(index, one.name)
            else:
                total = self._inner.total(index) if total is None else total
                found[one.name] = total.mean[one.name]
        return found

    def counts(self, name: str) -> list[int]:
        """See `WholeSums`."""
        layout, one = self._inner.layout, self._inner.spec.vector(name)
        words = one.format in IN_FIELDS
        found = []
        for index in range(len(self.served.members)):
            blocks = [block for block in layout.blocks(index) if block.name == name]
            found.append(
                sum(block.stop - block.start if words else block.last - block.first for block in blocks)
            )
        return found

    def take(self, gathered: Mapping[str, NDArray[Any]]) -> None:
        """See `WholeSums`."""
        for one in self.spec.vectors:
            pieces = gathered[one.name]
            if self._inner.spec.vector(one.name).format in IN_FIELDS:
                assert isinstance(self._inner, WordSums), "made for ring words"
                pieces = self._inner.decoded(one.name, pieces)
            self._whole[one.name] = self._decode(one, pieces) if compresses(one) else pieces

    def whole(self, name: str) -> Vector:
        """The mean (d,) of a vector, once all pieces were taken."""
        return self._whole[name]

    def total(self, index: int) -> Total:
        """See `Aggregator`; of any slice, once all pieces were taken."""
        if not self._whole:
            raise RuntimeError("nothing was added up, or its pieces were not gathered")
        mean = part_of(self.layout, self._whole, index)
        scalars = self._scalars()
        return Total(mean, scalars, len(self.participants), self.spec.silos)

    def _scalars(self) -> Mapping[str, float]:
        """Numbers beside the vectors, of whatever slice this rank serves."""
        if not self.spec.scalars:
            return {}
        return self._inner.total(self.served.members.index(self._silo)).scalars


def _root_mean_squares(values: Vector, ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each tensor, float64 (m,); 0 of an empty one, infinite where a value is not finite."""
    found = []
    for start, stop in pairwise([0, *ends.tolist()]):
        mean = 0.0
        for first in range(start, stop, SQUARED):
            part = np.square(values[first : min(first + SQUARED, stop)], dtype=np.float64)
            mean += float(part.sum()) / (stop - start)  # no library's threads, which wait for each other
        found.append(np.sqrt(mean) if np.isfinite(mean) else np.inf)
    return np.array(found)
