"""Sums over ranks in threads, and what they must be: an independent reference in integers and fractions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Aggregator
from silofl.aggregation.magnitudes import measure
from silofl.aggregation.protocols import PROTOCOLS
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm import Communicator, run_in_threads
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import SecureConfig
from silofl.types import Contribution

KINDS = [(np.float32, 8), (np.float32, 16), (np.float64, 32)]
"""Type of the values and bits of the ring: each of both, not each pair, for each is a kernel to compile."""

Means = dict[str, NDArray[Any]]


@dataclass
class Case:
    """What every silo brings to a sum."""

    vectors: tuple[VectorSpec, ...]
    contributions: list[Contribution]
    samples: list[int]
    dtype: Any = np.float32
    bits: Any = 16
    scalars: tuple[str, ...] = ()
    replica_count: int = 0
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def silos(self) -> int:
        return len(self.contributions)

    def spec(self, silo: int) -> AggregationSpec:
        return AggregationSpec(
            self.vectors,
            np.dtype(self.dtype),
            self.samples[silo],
            0,
            bytes(32),
            self.silos,
            self.replica_count,
            self.scalars,
        )

    def secure(self, protocol: str) -> SecureConfig:
        return SecureConfig(protocol=protocol, bits=self.bits, **self.config)  # type: ignore[arg-type]

    def make(self, protocol: str, group: ElasticGroup) -> Aggregator:
        return PROTOCOLS[protocol].build(group, self.secure(protocol), self.spec(group.silo_id), None)


@dataclass
class Outcome:
    """What one rank has in the end."""

    mean: Means
    scalars: dict[str, float]
    silos: int
    participants: tuple[int, ...]
    quality: Any


def reduce_and_read(aggregator: Aggregator, case: Case, group: ElasticGroup, number: int = 1) -> Outcome:
    """One sum, and the slices that this rank serves."""
    own = case.contributions[group.silo_id]
    aggregator.reduce(own, number, measure(own, case.spec(group.silo_id)))
    return read(aggregator, case, group)


def read(aggregator: Aggregator, case: Case, group: ElasticGroup) -> Outcome:
    served = aggregator.layout.shards.slices_of(group.silo_id, group.members)
    totals = [aggregator.total(index) for index in served]
    mean = {one.name: np.concatenate([total.mean[one.name] for total in totals]) for one in case.vectors}
    return Outcome(
        mean, dict(totals[0].scalars), totals[0].silos, aggregator.participants, aggregator.quality
    )


def outcomes(case: Case, protocol: str, numbers: Sequence[int] = (1,)) -> list[Outcome]:
    """The last of some sums, by rank."""

    def rank(comm: Communicator) -> Outcome:
        group = ElasticGroup(comm)
        aggregator = case.make(protocol, group)
        for number in numbers:
            found = reduce_and_read(aggregator, case, group, number)
            found = replace(found, mean={name: part.copy() for name, part in found.mean.items()})
        aggregator.close()
        return found

    return run_in_threads(case.silos, rank, timeout_s=400)


def whole(results: Sequence[Any]) -> Means:
    """The means of the slices of all ranks that are left, one after another."""
    left = [one for one in results if one is not None]
    return {name: np.concatenate([one.mean[name] for one in left]) for name in left[0].mean}


def shares(samples: Sequence[int]) -> list[Fraction]:
    """p_i on the grid of the tail, 2^-40 / n rounded up to a power of two."""
    places = 1 << 40 + (len(samples) - 1).bit_length()
    return [Fraction(round(one / sum(samples) * places), places) for one in samples]


def smallest_range(magnitude: float) -> float:
    """The smallest power of two, from 2^-64 on, that holds a magnitude."""
    exponent = -64
    while Fraction(magnitude) > Fraction(2) ** exponent:
        exponent += 1
    return 2.0**exponent


def unit(bits: int, silos: int, *, stochastic: bool = False) -> float:
    """Ring units at the end of a range, of all silos together."""
    return ((1 << bits - 1) - 1 - silos * (1.0 if stochastic else 0.5)) * (1 - 2.0**-21)


def scaled_words(x: NDArray[Any], bits: int, silos: int, factor: float, part: float, span: float) -> Any:
    """round(x * scale) in the arithmetic that the kernels state: float32 up to 16 bits, float64 above."""
    kind = np.float32 if bits <= 16 else np.float64
    words = np.rint(x.astype(kind) * kind(factor * unit(bits, silos) / span)).astype(np.int64)
    limit = int(part * unit(bits, silos) + 0.5)
    return np.clip(words, -limit, limit)


def exact_sum(values: Sequence[float]) -> Fraction:
    """The sum of float64 values, each rounded to 2^-96."""
    return sum((Fraction(round(Fraction(v) * 2**96), 2**96) for v in values), Fraction(0))


def expected(case: Case, among: Sequence[int] | None = None, fixed_range: float | None = None) -> Means:
    """The means that a secure sum over the silos `among` of all gives, bit for bit."""
    chosen = range(case.silos) if among is None else among
    return {
        one.name: (_exact if one.format == "exact" else _scaled)(case, one, list(chosen), fixed_range)
        for one in case.vectors
    }


def _weights(case: Case, one: VectorSpec, part: float) -> list[float]:
    """Each silo's factor; `part` is that of uniform weights."""
    if one.weighting == "samples":
        return [float(share) for share in shares(case.samples)]
    if one.weighting == "uniform":
        return [part] * case.silos
    return [given.weight * part for given in case.contributions]


def _exact(case: Case, one: VectorSpec, among: list[int], fixed_range: float | None) -> NDArray[Any]:
    factors = _weights(case, one, 1.0)
    total = float(exact_sum([factors[k] for k in among]))
    columns = np.array(
        [case.contributions[k].vectors[one.name].astype(np.float64) * factors[k] for k in among]
    )
    return np.array([float(exact_sum(list(column))) / total for column in columns.T]).astype(case.dtype)


def _scaled(case: Case, one: VectorSpec, among: list[int], fixed_range: float | None) -> NDArray[Any]:
    silos, out, start = case.silos, np.zeros(one.size), 0
    factors, weights = _weights(case, one, 1.0 / silos), _weights(case, one, 1.0)
    total = float(exact_sum([weights[k] for k in among]))
    total = total if one.weighting == "samples" else total / silos
    for end in one.tensor_ends:
        parts = [given.vectors[one.name][start:end] for given in case.contributions]
        scales = [given.weight if one.weighting == "round" else 1.0 for given in case.contributions]
        largest = max(
            (float(np.abs(part).max(initial=0)) * scale for part, scale in zip(parts, scales, strict=True)),
            default=0,
        )
        span = fixed_range or smallest_range(largest)
        words = np.zeros(end - start, np.int64)
        for k in among:
            part = factors[k] if one.weighting == "samples" else 1.0 / silos
            words += scaled_words(parts[k], case.bits, silos, factors[k], part, span)
        assert np.abs(words).max(initial=0) < 1 << case.bits - 1, "a sum wrapped"
        out[start:end] = words * (span / unit(case.bits, silos) / total)
        start = end
    return out.astype(case.dtype)


def normal(silos: int, size: int, dtype: Any = np.float32) -> list[NDArray[Any]]:
    """Vectors of very different sizes, the same in every run."""
    rng = np.random.default_rng(silos * 1000 + size)
    return [(rng.standard_normal(size) * 10.0 ** rng.integers(-3, 2)).astype(dtype) for _ in range(silos)]


def one_vector(
    silos: int, size: int, *, weighting: Any = "samples", dtype: Any = np.float32, **more: Any
) -> Case:
    """A case of one scaled vector, with sample counts from 1 to 1e7."""
    given = [Contribution({"x": values}) for values in normal(silos, size, dtype)]
    samples = [10 ** (k % 8) for k in range(silos)]
    return Case((VectorSpec("x", size, weighting=weighting),), given, samples, dtype, **more)


def in_ranks(silos: int, body: Callable[[Communicator], Any]) -> list[Any]:
    """What `body` returns on every rank, in threads."""
    return run_in_threads(silos, body, timeout_s=400)
