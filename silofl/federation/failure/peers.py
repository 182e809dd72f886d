"""How long a silo may be silent that no watchdog ends: the others end the job, by its name."""

from __future__ import annotations

from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.peer_heartbeats import Limits, PeerHeartbeats
from silofl.comm.respawn import SPAWN_TIMEOUT_S
from silofl.config import Config

WATCHDOG_FIRST = 2.0
"""A silo's own watchdog ends it after `failure.silent_s`, and the others go on: they wait twice as long."""


def watch_peers(group: ElasticGroup, config: Config) -> PeerHeartbeats:
    """This rank's heartbeats, not yet connected; every rank of a run makes them at the same place."""
    silent_s = WATCHDOG_FIRST * config.failure.silent_s
    stalled_s = silent_s + config.failure.rejoin_s + 2 * SPAWN_TIMEOUT_S  # all wait for one that is respawned
    return PeerHeartbeats(group.comm, Limits(silent_s, stalled_s))
