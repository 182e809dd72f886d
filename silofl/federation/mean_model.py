"""The mean of silos' own models, where there is no shared one: what a run publishes beside them."""

from __future__ import annotations

import numpy as np

from silofl.aggregation.magnitudes import measure
from silofl.federation.federation import Federation
from silofl.strategies.fedavg import FedAvg
from silofl.topologies.base import BUFFERS
from silofl.topologies.sharded_server import ShardedServer
from silofl.types import Contribution, Vector


def published_values(federation: Federation, last: int) -> Vector | None:
    """(d,) the shared model after the `last` round, or the mean of silos' own by their samples. Collective.

    None where silos hide their models from each other: beside its own model and its neighbours' sum, which
    a silo has, the mean would be one equation more, and on a ring of four the one that is left.
    """
    context = federation.context
    if not context.arrangement.own_models:
        return federation.values
    if context.openings is not None:
        return None
    count, own, aggregator = federation.silo.model.trainable, federation.values, federation.aggregator
    vectors = {"update": own[:count].copy()}
    if len(own) > count:
        vectors[BUFFERS] = own[count:].copy()
    contribution, mean = Contribution(vectors), np.zeros_like(own)
    server = ShardedServer(federation.group, FedAvg(), lambda: aggregator, mean, count)
    server.reduce(contribution, last + 1, measure(contribution, aggregator.spec), b"mean of models")
    server.step(vectors["update"], resync=False)
    return mean
