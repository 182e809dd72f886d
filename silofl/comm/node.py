"""Node topology: which ranks share a node, and whether they oversubscribe it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from silofl.launcher import detection, machine

MAX_PROCESSORS = 8192


@dataclass(frozen=True)
class Node:
    """Index of this rank among the ranks of its node, and their number.

    `whole`: all ranks share one node. `oversubscribed`: the ranks of some node leave it no core to spare, so
    other work there would wait behind ranks that spin. Both are the same on every rank.
    """

    rank: int
    size: int
    whole: bool
    oversubscribed: bool


def discover_node(mpi: Any, comm: Any) -> Node:
    """Discover the topology by a shared-memory split of `comm`. Collective.

    Local rank and size, which select the GPU, are the launcher's where it names them.
    """
    local = comm.Split_type(mpi.COMM_TYPE_SHARED)
    oversubscribed = local.size > 1 and local.size >= _cores_of(mpi, local)
    flags = np.array([oversubscribed, local.size < comm.size], np.int32)
    comm.Allreduce(mpi.IN_PLACE, flags, mpi.MAX)
    launch = detection.detect(os.environ, detection.launcher_executable())
    rank = local.rank if launch.local_rank is None else launch.local_rank
    size = local.size if launch.local_size is None else launch.local_size
    local.Free()
    return Node(rank, size, whole=not flags[1], oversubscribed=bool(flags[0]))


def _cores_of(mpi: Any, local: Any) -> int:
    """Number of processors that the ranks of one node may use together: the union of their affinities."""
    mask = np.zeros(MAX_PROCESSORS, np.uint8)
    mask[[cpu for cpu in machine.affinity() if cpu < MAX_PROCESSORS]] = 1
    local.Allreduce(mpi.IN_PLACE, mask, mpi.MAX)
    quota = np.array([machine.quota_cores()], np.int32)
    local.Allreduce(mpi.IN_PLACE, quota, mpi.MAX)
    return int(min(mask.sum(), quota[0]))
