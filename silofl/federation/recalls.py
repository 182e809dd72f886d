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
"""A silo that is lost again within so many rounds of coming back is in trouble of its own."""
MOST_IN_A_ROW = 3

Handover = dict[str, Any]


@dataclass
class _Trouble:
    """How often in a row a silo was lost soon after it came back, and when it may be called again."""

    streak: int = 0
    returned: int = -SOON_ROUNDS - 1
    not_before: int = 0


class Recalls:
    """One rank's part of calling lost silos back; all ranks know the same.

    A silo is started again in the round in which it was lost. Lost again within 3 rounds of its return it
    waits for 1 round, then for 3; then it stays away.
    """

    def __init__(self, places: list[Place], timeout_s: float) -> None:
        self._places, self._timeout_s = places, timeout_s
        self._troubles: dict[int, _Trouble] = {}

    @classmethod
    def of(cls, group: ElasticGroup, timeout_s: float) -> Recalls:
        """Note where every rank runs; collective, while all are there."""
        own = [socket.gethostname(), group.comm.local_rank]
        return cls([Place(*one) for one in allgather_object(group.comm, own)], timeout_s)

    @classmethod
    def taken_up(cls, state: dict[str, Any], timeout_s: float) -> Recalls:
        """From another rank's `state`, on a rank that comes back."""
        recalls = cls([Place(*one) for one in state["places"]], timeout_s)
        recalls._troubles = {silo: _Trouble(*values) for silo, *values in state["troubles"]}
        return recalls

    def note(self, lost: tuple[int, ...], number: int) -> None:
        """Silos were lost in round `number`."""
        for silo in lost:
            trouble = self._troubles.setdefault(silo, _Trouble())
            soon = number - trouble.returned <= SOON_ROUNDS
            trouble.streak = trouble.streak + 1 if soon else 1
            trouble.not_before = number + 2 ** (trouble.streak - 1) - 1

    def due(self, members: tuple[int, ...], number: int) -> tuple[int, ...]:
        """The silos that are none of `members`, to start again after round `number`: each once a round."""
        return tuple(
            silo
            for silo, trouble in sorted(self._troubles.items())
            if silo not in members
            and trouble.streak <= MOST_IN_A_ROW
            and max(trouble.not_before, trouble.returned + 1) <= number
        )

    def call(self, group: ElasticGroup, silos: tuple[int, ...], number: int, handover: Handover) -> bool:
        """Start `silos` again after round `number` and take them in; whether they came. Collective.

        `handover` is what they need to know. Those that do not come count as lost once more.
        """
        for silo in silos:
            self._troubles[silo].returned = number
        attempt = _Attempt(group, silos, self._places, self._timeout_s)
        told = {**handover, "recalls": self._state(), "completed": group.completed + 1}
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
            "troubles": [[silo, t.streak, t.returned, t.not_before] for silo, t in self._troubles.items()],
        }


class _Attempt:
    """One call, made at most once however often its step is taken."""

    def __init__(
        self, group: ElasticGroup, silos: tuple[int, ...], places: list[Place], timeout_s: float
    ) -> None:
        self._group, self._silos, self._places, self._timeout_s = group, silos, places, timeout_s
        self._tried = False
        self._merged: MpiCommunicator | None = None

    def run(self, handover: Handover) -> MpiCommunicator | None:
        """The communicator with the silos that came back, on all ranks or on none; collective.

        The handover is sent once every rank has that communicator: who has it is taken in, and who has not
        may end without being missed.
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
            self._merged.broadcast_bytes(json.dumps(handover).encode(), leader)
        return self._merged

    def abandon(self) -> None:
        """Let those go that came too late."""
        if self._merged is not None:
            self._merged.give_up()

    def _everybody(self, comm: Communicator) -> bool:
        return all(allgather_object(comm, self._merged is not None))
