"""How far silos' own models are apart, from sums that show no model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from silofl.federation.federation import Federation
from silofl.federation.metric_sums import FederationMetrics
from silofl.topologies.gossip_averaging import GossipAveraging
from silofl.types import Vector

NAME, DISAGREEMENT = "consensus_distance", "neighbour_disagreement"
BUCKETS = 1024
"""Numbers of a sketch: of longer models the distance is an estimate, off by 1 / sqrt(2048) = 2 % or so."""
BLOCK = 1 << 20


def with_consensus(federation: Federation, metrics: FederationMetrics, number: int) -> FederationMetrics:
    """The metrics with how far silos' models are apart, where silos have models of their own; collective.

    `neighbour_disagreement` is the root mean square, over silos, of how far (L2) averaging with its
    neighbours has moved a silo's parameters. Where nothing is hidden, there is `consensus_distance`, too: of
    how far they are from the mean of all silos'. Under masks no sum of models is opened for it, nor of
    anything linear in them: with what a silo has already, it could be another's model. None where a silo
    failed meanwhile.
    """
    topology, aggregator = federation.topology, federation.aggregator
    if not isinstance(topology, GossipAveraging):
        return metrics
    moved, count = aggregator.sum_scalars(np.array([topology.moved**2, 1.0]))
    values = {**metrics.values, DISAGREEMENT: _root(moved / count)}
    if federation.context.openings is None:
        values[NAME] = _distance(federation, number)
    return replace(metrics, values=values)


def _distance(federation: Federation, number: int) -> float | None:
    """Silos add up short sketches of their models, and then squared distances of those."""
    own, aggregator = federation.topology.shared["model"], federation.aggregator
    short = sketch(own, federation.context.config.run.seed, number)
    total = aggregator.sum_scalars(np.append(short, 1.0))
    away = short - total[:-1] / total[-1]
    told = away @ away if np.isfinite(away).all() else 0.0  # where a silo failed in the first sum
    squared, count = aggregator.sum_scalars(np.array([told, 1.0]))
    return _root(squared / count) if np.isfinite(total).all() else None


def _root(square: float) -> float | None:
    return float(np.sqrt(square)) if np.isfinite(square) else None


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
