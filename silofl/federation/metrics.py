"""From every silo's own metrics to the federation's means, weighted by sample counts."""

from __future__ import annotations

import math

import numpy as np

from silofl.aggregation.base import Aggregator
from silofl.comm.collective_errors import allgather_object
from silofl.comm.elastic_group import ElasticGroup

Metrics = dict[str, float]


class FederationMeans:
    """Sums metrics over silos. Which metrics there are is agreed in the first call and stays."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._agreed = False

    def __call__(self, group: ElasticGroup, aggregator: Aggregator, metrics: Metrics, count: int) -> Metrics:
        """Means over the held-out samples of all silos that are there; collective.

        A silo without samples (count 0) brings nothing; a metric that only some silos report is averaged
        over those. Nothing where a silo was lost while they were added up.
        """
        if not self._agreed:
            every = group.step(lambda: allgather_object(group.comm, sorted(metrics)))
            self._names = sorted({name for names in every for name in names})
            self._agreed = True
        if not self._names:
            return {}
        own = [(metrics[name] * count, count) if name in metrics else (0.0, 0) for name in self._names]
        totals = aggregator.sum_scalars(np.array(own, np.float64).reshape(-1)).reshape(-1, 2)
        means = {name: float(s / c) for name, (s, c) in zip(self._names, totals, strict=True) if c}
        return {name: mean for name, mean in means.items() if not math.isnan(mean)}

    @property
    def names(self) -> list[str] | None:
        """The metrics that were agreed on; None before the first evaluation."""
        return self._names if self._agreed else None

    def agree(self, names: list[str] | None) -> None:
        """Take the names that the others agreed on, if they did, on a rank that has come back."""
        if names is not None:
            self._names, self._agreed = names, True
