"""Which ranks share a node, and whether they leave it a core to spare."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from silofl.launcher import environment, machine

MOST_PROCESSORS = 8192


@dataclass(frozen=True)
class Node:
    """This rank's place among the ranks of its node.

    `whole` is true where all ranks share one node. `oversubscribed` is true where the ranks of any node leave
    it no core to spare: other work there would wait behind ranks that spin. Both are the same on every rank.
    """

    rank: int
    size: int
    whole: bool
    oversubscribed: bool


def discover_node(mpi: Any, comm: Any) -> Node:
    """Find out by a shared-memory split of `comm`. Collective.

    Local rank and size are the launcher's where it names them: those a GPU is picked by.
    """
    local = comm.Split_type(mpi.COMM_TYPE_SHARED)
    oversubscribed = local.size > 1 and local.size >= _cores_of(mpi, local)
    verdict = np.array([oversubscribed, local.size < comm.size], np.int32)
    comm.Allreduce(mpi.IN_PLACE, verdict, mpi.MAX)
    launch = environment.detect(os.environ, environment.launcher_executable())
    rank = local.rank if launch.local_rank is None else launch.local_rank
    size = local.size if launch.local_size is None else launch.local_size
    local.Free()
    return Node(rank, size, whole=not verdict[1], oversubscribed=bool(verdict[0]))


def _cores_of(mpi: Any, local: Any) -> int:
    """Return how many processors the ranks of one node may use together: a union of their affinities."""
    mask = np.zeros(MOST_PROCESSORS, np.uint8)
    mask[[cpu for cpu in machine.affinity() if cpu < MOST_PROCESSORS]] = 1
    local.Allreduce(mpi.IN_PLACE, mask, mpi.MAX)
    quota = np.array([machine.quota_cores()], np.int32)
    local.Allreduce(mpi.IN_PLACE, quota, mpi.MAX)
    return int(min(mask.sum(), quota[0]))
