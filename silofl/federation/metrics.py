"""From every silo's own metrics to the federation's means, weighted by sample counts."""

from __future__ import annotations

import math

import numpy as np

from silofl.aggregation.base import Aggregator
from silofl.comm.collective_errors import allgather_object
from silofl.comm.elastic_group import ElasticGroup
from silofl.federation.stateful import Json, Part, State
from silofl.types import Vector

Metrics = dict[str, float]


class FederationMeans(Part):
    """Sums metrics over silos. Which metrics there are is agreed in the first call and stays."""

    name = "metrics"

    def __init__(self) -> None:
        self._names: list[str] = []
        self._agreed = False

    def __call__(
        self, group: ElasticGroup, aggregator: Aggregator, metrics: Metrics, count: int, model: Vector
    ) -> Metrics:
        """Means over the held-out samples of all silos that are there, of one `model` (d,); collective.

        A silo without samples (count 0) brings nothing; a metric that only some silos report is averaged
        over those. Nothing where a silo failed while they were added up.
        """
        if not self._agreed:
            every = group.step(lambda: allgather_object(group.comm, sorted(metrics)))
            self._names = sorted({name for names in every for name in names})
            self._agreed = True
        if not self._names:
            return {}
        own = [(metrics[name] * count, count) if name in metrics else (0.0, 0) for name in self._names]
        totals = aggregator.sum_scalars(np.array(own, np.float64).reshape(-1), (model,)).reshape(-1, 2)
        means = {name: float(s / c) for name, (s, c) in zip(self._names, totals, strict=True) if c}
        return {name: mean for name, mean in means.items() if not math.isnan(mean)}

    def rejoin_state(self) -> Json:
        """See `Stateful`: the metrics that were agreed on; None before the first evaluation."""
        return {"names": self._names if self._agreed else None}

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`."""
        if told["names"] is not None:
            self._names, self._agreed = told["names"], True
