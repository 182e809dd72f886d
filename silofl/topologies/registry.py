"""Topologies by their configured name."""

from __future__ import annotations

from collections.abc import Mapping

from silofl.config import TopologyConfig
from silofl.errors import unknown_name
from silofl.topologies.base import Topology
from silofl.topologies.sharded_server import ShardedServer

TOPOLOGIES: Mapping[str, type[Topology]] = {
    "sharded": ShardedServer,
}
"""What `topology.name` may be."""


def topology_of(config: TopologyConfig) -> type[Topology]:
    """The topology that [topology] names. ConfigError, naming the nearest, where there is none."""
    if config.name not in TOPOLOGIES:
        raise unknown_name("topology.name", config.name, TOPOLOGIES)
    return TOPOLOGIES[config.name]
