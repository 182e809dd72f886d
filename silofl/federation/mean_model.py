"""The mean of silos' own models, where there is no shared one: what a run publishes beside them."""

from __future__ import annotations

from functools import partial

import numpy as np

from silofl.aggregation.magnitudes import measure
from silofl.federation.federation import Federation
from silofl.strategies.fedavg import FedAvg
from silofl.topologies.base import BUFFERS
from silofl.topologies.sharded_server import ShardedServer
from silofl.types import Contribution, Vector


def published_values(federation: Federation, last: int) -> Vector:
    """(d,) the shared model after the `last` round, or the mean of silos' own by their samples. Collective.

    That mean is of one more sum over all silos, as private as [secure] says.
    """
    if not federation.context.arrangement.own_models:
        return federation.values
    count, own, aggregator = federation.silo.model.trainable, federation.values, federation.aggregator
    vectors = {"update": own[:count].copy()}
    if len(own) > count:
        vectors[BUFFERS] = own[count:].copy()
    contribution, mean = Contribution(vectors), np.zeros_like(own)
    server = ShardedServer(federation.group, FedAvg(), lambda: aggregator, mean, count)
    asked = None if federation.context.openings is None else partial(federation.authorize, last + 1)
    magnitudes = measure(contribution, aggregator.spec)
    server.reduce(contribution, last + 1, magnitudes, b"mean of models", authorizer=asked)
    server.step(vectors["update"], resync=False)
    return mean
