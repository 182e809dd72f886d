"""[compress] under [privacy]: noise on what a codec has made of vectors, in the ring's own bits.

A codec that goes here draws some of the values, the same ones for all whatever their data: it never makes a
clipped vector longer, so that noise of the same multiplier covers what is left of it. The grid of that noise
and the codec then share one budget of bits, those of the ring.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from silofl.aggregation.base import Aggregator
from silofl.aggregation.compressed import CompressedSum, Compression
from silofl.aggregation.residuals import Residuals
from silofl.aggregation.spec import AggregationSpec
from silofl.aggregation.transformed import TransformedSum
from silofl.config import Config
from silofl.privacy.grid import TAIL
from silofl.privacy.plan import Plan
from silofl.training.flat import FlatModel


def way_of(config: Config) -> Compression | None:
    """What [compress] does; a value has the ring's bits, in which the noise is."""
    way = Compression.of(config.compress)
    return None if way is None else replace(way, bits=None)


def sent_values(config: Config, model: FlatModel) -> int:
    """How many values of a model noise has to cover."""
    way = way_of(config)
    if way is None:
        return model.size
    return way.codec.size(model.trainable) + model.size - model.trainable


def words_spec(spec: AggregationSpec, way: Compression | None) -> AggregationSpec:
    """What is added up inside: ring integers of what a codec has made, where there is one."""
    shorter = spec if way is None else way.inner_spec(spec, words=True)
    words = tuple(replace(one, format="words", tensors=(), ends=None, shapes=()) for one in shorter.vectors)
    return replace(shorter, vectors=words, scalars=())


def noisy_sum(
    inner: Aggregator, spec: AggregationSpec, way: Compression | None, silo: int, *made_of: Any
) -> TransformedSum | CompressedSum:
    """The noisy sum of the vectors of `spec`, or of what a codec makes of them.

    `made_of`: what follows the spec in `TransformedSum`, up to the silo.
    """
    if way is None:
        return TransformedSum(inner, spec, *made_of, silo=silo)
    whole = replace(spec, scalars=())
    noisy = TransformedSum(inner, way.inner_spec(whole, words=True), *made_of, silo=silo)
    return CompressedSum(lambda _: noisy, whole, way, Residuals(), words=True, silo=silo)


def notes(way: Compression | None, plan: Plan, noise_multiplier: float) -> list[str]:
    """What the bits of a value are spent on, in a sentence, where vectors are compressed."""
    if way is None:
        return []
    grid = plan.grid(noise_multiplier)
    deviation = math.sqrt(grid.variance(plan.place.sources(plan.silos))) * plan.matrix.spread
    levels, sums = (1 << plan.bits - 1) - 1, grid.limit * plan.place.summed(plan.silos)
    return [
        f"{plan.dimensions} values are sent, of {plan.bits} bits both ways: of {levels} levels on each side "
        f"of zero {sums} are for the sum and {TAIL * deviation:.0f} for noise of standard deviation "
        f"{deviation:.1f}"
    ]
