"""Respawning: which failed silos are started again and when, and what they are told as they join."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from silofl.comm.collective_errors import allgather_object, allgather_parsed
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.mpi import MpiCommunicator
from silofl.comm.protocol import Communicator, RankFailedError
from silofl.comm.respawn import Place, Respawned, respawn
from silofl.federation.failure.admission import Admission
from silofl.federation.stateful import Json, Part, State
from silofl.report.round_metrics import silos_text

SOON_ROUNDS = 3
"""A silo that fails again within so many rounds of rejoining waits longer each time."""
MOST_IN_A_ROW = 3


@dataclass
class Backoff:
    """How often in a row a silo failed soon after it had rejoined, and when it may be started again."""

    streak: int = 0
    returned: int = -SOON_ROUNDS - 1
    not_before: int = 0


class RespawnPolicy(Part):
    """When failed silos are started again; all ranks have the same.

    A silo is started again in the round in which it failed. Failing again within 3 rounds of its return it
    waits for 1 round, then for 3; then it stays away.

    Args:
        timeout_s: how long survivors wait for a silo that they started.
        admission: who may rejoin; None where no silo ever does.
        places: where every rank runs and by which command; a rank that rejoins is told.
        told: what a silo gets before it has proved anything: see `run_trust.what_returning_silos_are_told`.
    """

    name = "respawns"

    def __init__(
        self,
        timeout_s: float,
        admission: Admission | None = None,
        places: list[Place] | None = None,
        told: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._told = told
        self._admission, self._places, self._timeout_s = admission, places or [], timeout_s
        self._backoffs: dict[int, Backoff] = {}

    @classmethod
    def of(
        cls, group: ElasticGroup, timeout_s: float, admission: Admission, own: Place, told: Mapping[str, str]
    ) -> RespawnPolicy:
        """Note where every rank runs and by which command; collective, while all are there."""
        places = allgather_parsed(group.comm, own.to_json(), Place.from_json, "its place")
        return cls(timeout_s, admission, places, told)

    def told_path(self, path: Path, silo: int) -> str:
        """How other ranks are told of a folder of a silo's: one below its working directory, from there."""
        return self._places[silo].told(path)

    def rejoin_state(self) -> Json:
        """See `Stateful`."""
        return {
            "admission": self._admission and self._admission.told(),
            "places": [place.to_json() for place in self._places],
            "backoffs": [[silo, t.streak, t.returned, t.not_before] for silo, t in self._backoffs.items()],
        }

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`."""
        self._places = [Place.from_json(one) for one in told["places"]]
        if self._admission is not None:
            self._admission.take_over(told["admission"])
        self._backoffs = {silo: Backoff(*values) for silo, *values in told["backoffs"]}

    def note(self, failed: tuple[int, ...], number: int) -> None:
        """Silos failed in round `number`."""
        for silo in failed:
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

    def only_by_restart(self, silos: tuple[int, ...], members: tuple[int, ...]) -> str:
        """Which of `silos` Open MPI 5.0.11 cannot have back in this job, and why; empty where it can.

        Across hosts a process that it starts later reaches none of a second such process (`opal_modex_recv`).
        """
        hosts = [place.host for place in self._places]
        alone = tuple(silo for silo in silos if hosts[silo] not in {hosts[member] for member in members})
        if alone:
            return f"{silos_text(alone)} failed, and on a host without another silo Open MPI has none back"
        if len(set(hosts)) > 1 and any(one.returned >= 0 for one in self._backoffs.values()):
            return (
                f"{silos_text(silos)} failed, and on several hosts Open MPI has no second one back in a job"
            )
        return ""

    def respawn(
        self, group: ElasticGroup, silos: tuple[int, ...], number: int, tell: Callable[[], bytes]
    ) -> str:
        """Start `silos` again after round `number` and take them in; else why not, for people. Collective.

        `tell` gives the message of what they need to know, this policy's part of it included. A silo that
        does not come, or that is not what it was, has failed once more.
        """
        for silo in silos:
            self._backoffs[silo].returned = number
        assert self._admission is not None, "nobody knows who may rejoin"
        attempt = _Respawn(group, silos, self._places, self._timeout_s, self._admission, self._told)
        told = tell()
        merged = group.step(lambda: attempt.run(told))
        if merged is None:
            attempt.abandon()
            self.note(silos, number)
            return f"{silos_text(silos)} {attempt.reason}"
        group.adopt(merged)
        return ""


class _Respawn:
    """One call, made at most once however often its step is taken."""

    def __init__(
        self,
        group: ElasticGroup,
        silos: tuple[int, ...],
        places: list[Place],
        timeout_s: float,
        admission: Admission,
        told: Mapping[str, str],
    ) -> None:
        self._group, self._silos, self._places, self._timeout_s = group, silos, places, timeout_s
        self._admission, self._told = admission, told
        self._tried = False
        self._merged: MpiCommunicator | None = None
        self.reason = "did not rejoin in time"
        """What is said of the silos where they have not rejoined."""

    def run(self, rejoin_state: bytes) -> MpiCommunicator | None:
        """The communicator with the silos that rejoin, on all ranks or on none; collective.

        The rejoin state is sent once every rank has that communicator: a silo that has received the state is
        taken in, and one that has not may end without being missed.
        """
        comm = self._group.comm
        if any(allgather_object(comm, self._tried)):
            return self._merged if self._on_all(comm) else None
        self._tried = True
        assert isinstance(comm, MpiCommunicator), "only processes come back"
        self._merged, refusal = self._respawn(comm)
        if refusal:
            self.reason = f"cannot rejoin: {refusal}"
        if not self._on_all(comm):
            return None
        assert self._merged is not None
        leader = self._merged.members.index(comm.members[0])
        with suppress(RankFailedError):  # a rank that fails here is missed as all go on with it
            self._merged.broadcast_bytes(rejoin_state, leader)
        return self._merged

    def _respawn(self, comm: MpiCommunicator) -> Respawned:
        asked = self._admission.challenge(comm, self._silos)
        return respawn(
            comm,
            self._silos,
            self._places,
            timeout_s=self._timeout_s,
            told=self._told,
            challenge=asked,
            judge=lambda silo, claim: self._admission.refusal(silo, asked, claim),
        )

    def abandon(self) -> None:
        """Let silos go that came too late."""
        if self._merged is not None:
            self._merged.revoke()

    def _on_all(self, comm: Communicator) -> bool:
        return all(allgather_object(comm, self._merged is not None))
