"""Bringing lost silos back: who is started again and when, and what they are told as they join."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from silofl.comm.collective_errors import allgather_object
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.mpi import MpiCommunicator
from silofl.comm.protocol import Communicator, RankFailedError
from silofl.comm.respawn import Place, respawn

SOON_ROUNDS = 3
"""A silo that is lost again within so many rounds of coming back is in backoff of its own."""
MOST_IN_A_ROW = 3

Handover = dict[str, Any]


@dataclass
class Backoff:
    """How often in a row a silo was lost soon after it came back, and when it may be called again."""

    streak: int = 0
    returned: int = -SOON_ROUNDS - 1
    not_before: int = 0


class RespawnPolicy:
    """One rank's part of calling lost silos back; all ranks know the same.

    A silo is started again in the round in which it was lost. Lost again within 3 rounds of its return it
    waits for 1 round, then for 3; then it stays away.
    """

    def __init__(self, places: list[Place], timeout_s: float) -> None:
        self._places, self._timeout_s = places, timeout_s
        self._backoffs: dict[int, Backoff] = {}

    @classmethod
    def of(cls, group: ElasticGroup, timeout_s: float) -> RespawnPolicy:
        """Note where every rank runs; collective, while all are there."""
        own = [socket.gethostname(), group.comm.local_rank]
        return cls([Place(*one) for one in allgather_object(group.comm, own)], timeout_s)

    @classmethod
    def from_state(cls, state: dict[str, Any], timeout_s: float) -> RespawnPolicy:
        """From another rank's `state`, on a rank that comes back."""
        respawns = cls([Place(*one) for one in state["places"]], timeout_s)
        respawns._backoffs = {silo: Backoff(*values) for silo, *values in state["backoffs"]}
        return respawns

    def note(self, lost: tuple[int, ...], number: int) -> None:
        """Silos were lost in round `number`."""
        for silo in lost:
            backoff = self._backoffs.setdefault(silo, Backoff())
            soon = number - backoff.returned <= SOON_ROUNDS
            backoff.streak = backoff.streak + 1 if soon else 1
            backoff.not_before = number + 2 ** (backoff.streak - 1) - 1

    def due(self, members: tuple[int, ...], number: int) -> tuple[int, ...]:
        """The silos that are none of `members`, to start again after round `number`: each once a round."""
        return tuple(
            silo
            for silo, backoff in sorted(self._backoffs.items())
            if silo not in members
            and backoff.streak <= MOST_IN_A_ROW
            and max(backoff.not_before, backoff.returned + 1) <= number
        )

    def call(self, group: ElasticGroup, silos: tuple[int, ...], number: int, rejoin_state: Handover) -> bool:
        """Start `silos` again after round `number` and take them in; whether they came. Collective.

        `rejoin_state` is what they need to know. Those that do not come count as lost once more.
        """
        for silo in silos:
            self._backoffs[silo].returned = number
        attempt = _Respawn(group, silos, self._places, self._timeout_s)
        told = {**rejoin_state, "respawns": self._state(), "completed": group.completed + 1}
        merged = group.step(lambda: attempt.run(told))
        if merged is None:
            attempt.abandon()
            self.note(silos, number)
            return False
        group.adopt(merged)
        return True

    def _state(self) -> dict[str, Any]:
        return {
            "places": [[place.host, place.local_rank] for place in self._places],
            "backoffs": [[silo, t.streak, t.returned, t.not_before] for silo, t in self._backoffs.items()],
        }


class _Respawn:
    """One call, made at most once however often its step is taken."""

    def __init__(
        self, group: ElasticGroup, silos: tuple[int, ...], places: list[Place], timeout_s: float
    ) -> None:
        self._group, self._silos, self._places, self._timeout_s = group, silos, places, timeout_s
        self._tried = False
        self._merged: MpiCommunicator | None = None

    def run(self, rejoin_state: Handover) -> MpiCommunicator | None:
        """The communicator with the silos that came back, on all ranks or on none; collective.

        The rejoin_state is sent once every rank has that communicator: who has it is taken in, and who has
        not may end without being missed.
        """
        comm = self._group.comm
        if any(allgather_object(comm, self._tried)):
            return self._merged if self._everybody(comm) else None
        self._tried = True
        assert isinstance(comm, MpiCommunicator), "only processes come back"
        self._merged = respawn(comm, self._silos, self._places, timeout_s=self._timeout_s)
        if not self._everybody(comm):
            return None
        assert self._merged is not None
        leader = self._merged.members.index(comm.members[0])
        with suppress(RankFailedError):  # whoever is missing there, all find out as they go on with it
            self._merged.broadcast_bytes(json.dumps(rejoin_state).encode(), leader)
        return self._merged

    def abandon(self) -> None:
        """Let those go that came too late."""
        if self._merged is not None:
            self._merged.give_up()

    def _everybody(self, comm: Communicator) -> bool:
        return all(allgather_object(comm, self._merged is not None))
