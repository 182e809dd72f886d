"""A federation of threads in which one silo fails and rejoins: another thread stands for its new process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from silofl.comm.protocol import Communicator
from silofl.comm.rendezvous import Group
from silofl.comm.respawn import Respawned, SpawnInfo
from silofl.comm.threads import ThreadCommunicator, run_in_threads
from silofl.config import Config
from silofl.federation.failure import rejoin as rejoining
from silofl.federation.failure import respawn_policy
from silofl.federation.failure.respawn_policy import RespawnPolicy
from silofl.federation.loop import train
from silofl.tasks.base import Task


class Renumbered(ThreadCommunicator):
    """Ranks whose silos are numbered by rank, whatever threads they are."""

    def __init__(self, rendezvous: Any, rank: int, state: Any = None) -> None:
        super().__init__(rendezvous, rank, state)
        self._members = tuple(range(self._size))

    def duplicate(self) -> ThreadCommunicator:
        """See `Communicator`."""
        return Renumbered(super().duplicate()._rendezvous, self._rank, self._state)


def federate(
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
    task: Callable[[], Task],
    silos: int,
    victim: int,
    *,
    after: int,
) -> list[Any]:
    """Every silo's summary; the victim, which the configuration lets fail, rejoins after round `after`."""
    merged: dict[int, ThreadCommunicator] = {}

    def due(policy: RespawnPolicy, members: tuple[int, ...], number: int) -> tuple[int, ...]:
        return (victim,) if number == after and victim not in members else ()

    def respawn(comm: ThreadCommunicator, *_: Any, **__: Any) -> Respawned:
        returned: Any = merged[comm.members[comm.rank]]
        return Respawned(returned)

    def reraise(comm: Communicator, silo: int, error: Exception) -> None:
        raise error

    monkeypatch.setattr(RespawnPolicy, "due", due)
    monkeypatch.setattr(respawn_policy, "MpiCommunicator", ThreadCommunicator)
    monkeypatch.setattr(respawn_policy, "respawn", respawn)
    monkeypatch.setattr(rejoining, "join", lambda comm, spawn_info, claim: merged[victim])
    monkeypatch.setattr(rejoining, "_stay_away", reraise)

    def rank(comm: Communicator) -> Any:
        assert isinstance(comm, ThreadCommunicator)
        torch.set_num_threads(1)
        thread, world = comm.rank, comm._rendezvous.group.world  # type: ignore[union-attr]
        stands_for = victim if thread == silos else thread
        first = comm._enter("first", payload=Group(world, tuple(range(silos)))).wait()[0]
        threads = tuple(silos if silo == victim else silo for silo in range(silos))
        later = comm._enter("later", payload=Group(world, threads)).wait()[0]
        if thread != victim:
            merged[stands_for] = Renumbered(later.first, stands_for)
        comm.barrier()
        if thread < silos:
            return train(config, task(), comm=ThreadCommunicator(first.first, thread))
        alone: Any = ThreadCommunicator(Group(world, (silos,)).first, 0)
        numbers, leader = tuple(range(silos)), min(merged)
        spawned = SpawnInfo(victim, numbers, leader, victim, silos, "00" * 48)
        return rejoining.rejoin(lambda: config, task(), comm=alone, spawn_info=spawned, resumed=False)

    results = run_in_threads(silos + 1, rank, timeout_s=110)
    assert results[victim] is None, "it has not failed"
    results[victim] = results.pop()
    return results
