"""From every silo's own metrics to the federation's means, weighted by sample counts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from silofl.aggregation.base import Aggregator
from silofl.comm.protocol import Communicator

Metrics = dict[str, float]


class FederationMeans:
    """Sums metrics over silos. Which metrics there are is agreed in the first call and stays."""

    def __init__(self, comm: Communicator, aggregator: Aggregator) -> None:
        self._comm, self._aggregator = comm, aggregator
        self._names: list[str] | None = None

    def __call__(self, metrics: Metrics, count: int) -> Metrics:
        """Means over all silos' held-out samples; collective.

        A silo without samples (count 0) brings nothing; a metric that only some silos report is averaged
        over those.
        """
        if self._names is None:
            every = gather(self._comm, sorted(metrics))
            self._names = sorted({name for names in every for name in names})
        if not self._names:
            return {}
        own = [(metrics[name] * count, count) if name in metrics else (0.0, 0) for name in self._names]
        totals = self._aggregator.sum_numbers(np.array(own, np.float64).reshape(-1)).reshape(-1, 2)
        return {name: float(s / c) for name, (s, c) in zip(self._names, totals, strict=True) if c}


def gather(comm: Communicator, mine: Any) -> list[Any]:
    """Every silo's small report, in rank order; collective. JSON: numbers, words, lists and dicts only."""
    return [json.loads(text) for text in comm.allgather_bytes(json.dumps(mine).encode())]
