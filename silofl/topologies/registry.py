"""Topologies by their configured name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from silofl.config import TopologyConfig
from silofl.errors import unknown_name
from silofl.strategies.base import Strategy
from silofl.topologies.arrangements import registry as arrangements_of
from silofl.topologies.arrangements.base import Arrangement
from silofl.topologies.asynchronous_server import AsynchronousServer
from silofl.topologies.base import Topology
from silofl.topologies.gossip_averaging import GossipAveraging
from silofl.topologies.hierarchical_server import HierarchicalServer
from silofl.topologies.sharded_server import ShardedServer
from silofl.topologies.star_server import StarServer
from silofl.topologies.tracked_strategy import TrackedStrategy

TOPOLOGIES: Mapping[str, type[Topology]] = {
    "asynchronous": AsynchronousServer,
    "gossip": GossipAveraging,
    "hierarchical": HierarchicalServer,
    "sharded": ShardedServer,
    "star": StarServer,
}
"""What `topology.name` may be."""


def arrangement_of(config: TopologyConfig) -> Arrangement:
    """How [topology] arranges ranks. ConfigError, naming the nearest, where there is no such topology."""
    if config.name not in TOPOLOGIES:
        raise unknown_name("topology.name", config.name, TOPOLOGIES)
    return arrangements_of.build(config)


def topology_of(config: TopologyConfig) -> Callable[..., Topology]:
    """What makes the topology that [topology] names, with its arrangement where that has keys."""
    arrangement = arrangement_of(config)
    kind: Callable[..., Topology] = TOPOLOGIES[config.name]
    if arrangement.has_keys:
        return partial(kind, arrangement=arrangement)
    return kind


def strategy_of(config: TopologyConfig, strategy: Strategy) -> Strategy:
    """The strategy, with what the topology adds to its silo's half."""
    return TrackedStrategy(strategy) if arrangement_of(config).corrects else strategy
