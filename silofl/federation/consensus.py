"""How far silos' own models are from their mean, from sums that show no model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from silofl.federation.federation import Federation
from silofl.federation.metric_sums import FederationMetrics
from silofl.types import Vector

NAME = "consensus_distance"
BUCKETS = 1024
"""Numbers of a sketch: of longer models the distance is an estimate, off by 1 / sqrt(2048) = 2 % or so."""
BLOCK = 1 << 20


def with_consensus(federation: Federation, metrics: FederationMetrics, number: int) -> FederationMetrics:
    """The metrics with `consensus_distance`, where silos have models of their own; collective.

    It is the root mean square, over silos, of the distance (L2) between a silo's parameters and the mean of
    all silos'. Silos add up short sketches of their models, and then squared distances of those, as
    privately as metrics. None where a silo failed meanwhile.
    """
    if not federation.context.arrangement.own_models:
        return metrics
    own = federation.topology.shared["model"]
    short = sketch(own, federation.context.config.run.seed, number)
    total = federation.aggregator.sum_scalars(np.append(short, 1.0))
    away = short - total[:-1] / total[-1]
    told = away @ away if np.isfinite(away).all() else 0.0  # where a silo failed in the first sum
    squared, count = federation.aggregator.sum_scalars(np.array([told, 1.0]))
    distance = float(np.sqrt(squared / count)) if np.isfinite(total).all() else np.nan
    value = distance if np.isfinite(distance) else None
    return replace(metrics, values={**metrics.values, NAME: value})


def sketch(values: Vector, seed: int, number: int) -> NDArray[np.float64]:
    """At most `BUCKETS` numbers, whose squares add up to those of values (d,) on average.

    Values fall into buckets with random signs, the same on every silo, so that sketches add up as values do
    (Charikar, Chen & Farach-Colton 2002); of `BUCKETS` values or fewer they are the values.
    """
    if len(values) <= BUCKETS:
        return values.astype(np.float64)
    rng, found = np.random.default_rng([seed, number]), np.zeros(BUCKETS)
    for first in range(0, len(values), BLOCK):
        part = values[first : first + BLOCK]
        signs = rng.integers(0, 2, len(part)) * 2.0 - 1.0
        found += np.bincount(rng.integers(0, BUCKETS, len(part)), signs * part, BUCKETS)
    return found
