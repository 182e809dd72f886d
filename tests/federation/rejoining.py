"""A federation of threads in which one silo fails and rejoins: another thread stands for its new process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from silofl.checkpoint.run_keys import ROSTER, identity_path
from silofl.comm.base import SharedState
from silofl.comm.protocol import Communicator, SimulatedCrash
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
    """Ranks whose silos have the numbers that `silo_of` gives to threads, also after a further failure."""

    def __init__(self, rendezvous: Any, rank: int, silo_of: Mapping[int, int], state: Any = None) -> None:
        super().__init__(rendezvous, rank, state)
        self._silo_of, self._threads = silo_of, self._members
        self._members = tuple(silo_of[thread] for thread in self._threads)

    def duplicate(self) -> ThreadCommunicator:
        """See `Communicator`."""
        return Renumbered(super().duplicate()._rendezvous, self._rank, self._silo_of, self._state)

    def recover(self) -> ThreadCommunicator:
        """See `Communicator`."""
        group, thread = self._open_rendezvous.group, self._threads[self._rank]
        group.revoke()
        successor = group.successor(thread)
        rank = successor.members.index(thread)
        return Renumbered(successor.first, rank, self._silo_of, SharedState(self._state))


def federate(
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
    task: Callable[[], Task],
    silos: int,
    victim: int,
    *,
    after: int,
    refusals: list[Exception] | None = None,
) -> list[Any]:
    """Every silo's summary; the victim, which the configuration lets fail, rejoins after round `after`.

    With `refusals` it may stay away, and says why there; it has no summary then.
    """
    merged: dict[int, ThreadCommunicator] = {}

    asked: list[RespawnPolicy] = []

    def due(policy: RespawnPolicy, members: tuple[int, ...], number: int) -> tuple[int, ...]:
        if number != after or victim in members or policy in asked:
            return ()
        asked.append(policy)  # for one thread stands for it, once
        return (victim,)

    def respawn(comm: ThreadCommunicator, *_: Any, **__: Any) -> Respawned:
        returned: Any = merged[comm.members[comm.rank]]
        return Respawned(returned)

    def stay_away(comm: Communicator, silo: int, error: Exception) -> None:
        if refusals is None:
            raise error
        refusals.append(error)
        raise SimulatedCrash

    monkeypatch.setattr(RespawnPolicy, "due", due)
    monkeypatch.setattr(respawn_policy, "MpiCommunicator", ThreadCommunicator)
    monkeypatch.setattr(respawn_policy, "respawn", respawn)
    monkeypatch.setattr(rejoining, "join", lambda comm, spawn_info, claim: merged[victim])
    monkeypatch.setattr(rejoining, "_stay_away", stay_away)

    def rank(comm: Communicator) -> Any:
        assert isinstance(comm, ThreadCommunicator)
        torch.set_num_threads(1)
        thread, world = comm.rank, comm._rendezvous.group.world  # type: ignore[union-attr]
        stands_for = victim if thread == silos else thread
        first = comm._enter("first", payload=Group(world, tuple(range(silos)))).wait()[0]
        threads = tuple(silos if silo == victim else silo for silo in range(silos))
        silo_of = {thread: silo for silo, thread in enumerate(threads)}
        later = comm._enter("later", payload=Group(world, threads)).wait()[0]
        if thread != victim:
            merged[stands_for] = Renumbered(later.first, stands_for, silo_of)
        comm.barrier()
        if thread < silos:
            return train(config, task(), comm=ThreadCommunicator(first.first, thread))
        key = identity_path(Path(config.run.dir), victim)
        while not key.exists() and time.monotonic() < world.deadline:
            time.sleep(0.01)  # its first process has not written it yet
        alone: Any = ThreadCommunicator(Group(world, (silos,)).first, 0)
        numbers, leader = tuple(range(silos)), min(merged)
        told = {"path": config.run.dir, "run": "", "roster": key.with_name(ROSTER).read_text()}
        spawned = SpawnInfo(victim, numbers, leader, victim, silos, "00" * 48, told)
        return rejoining.rejoin(
            lambda silo, silos: config, task(), comm=alone, spawn_info=spawned, resumed=False
        )

    results = run_in_threads(silos + 1, rank, timeout_s=110)
    assert results[victim] is None, "it has not failed"
    results[victim] = results.pop()
    return results
