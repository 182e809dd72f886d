"""Bringing failed silos back between two rounds: the survivors' side, and what they hand to such a silo.

`loop.py` calls `respawn_failed` after each round. Where silos are due, the round is committed before they
are started, and by `loop.py` once more, with those that came back. `respawn_policy.py` says which silos are
due and starts them by `comm/respawn.py`; a process that is started so goes through `rejoin.py` meanwhile.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, fields
from typing import Any

from silofl.errors import StoppedError
from silofl.federation.run_state import RunState
from silofl.federation.stateful import rejoin_state
from silofl.report.round_metrics import RoundMetrics, silos_text

Json = dict[str, Any]


@dataclass(frozen=True)
class RejoinState:
    """The run as the survivors know it, between two rounds. No secret, and nothing of a silo's data.

    Attributes:
        silos: that rejoin.
        round: the last one that is complete.
        completed: steps of the group that are done once the silos are in.
        path: the leader's run directory.
        rounds: metrics of the rounds that this process of the leader ran.
        affordable: how many more rounds the run may spend privacy on, up to 2.
        run: the run's id.
        parts: what each `Stateful` part of the run tells, by name.
    """

    silos: tuple[int, ...]
    round: int
    completed: int
    path: str
    rounds: list[RoundMetrics]
    affordable: int
    run: str
    parts: Json

    def encode(self) -> bytes:
        """As a message."""
        table = {one.name: getattr(self, one.name) for one in fields(self)}
        table["rounds"] = [metrics.to_json() for metrics in self.rounds]
        return json.dumps(table).encode()

    @classmethod
    def decode(cls, message: bytes) -> RejoinState:
        """From a message."""
        table = json.loads(message)
        rounds = [RoundMetrics.from_json(line) for line in table["rounds"]]
        return cls(**table | {"silos": tuple(table["silos"]), "rounds": rounds})


def respawn_failed(state: RunState, number: int) -> None:
    """Start failed silos again after round `number`, one after the other; collective with their `rejoin`.

    Not in one go: they would be one job, of which Open MPI's launcher ends all when one dies again.

    Raises StoppedError, with the round committed, where the job has to be restarted to have a silo back.
    """
    while state.config.failure.policy == "respawn" and state.group.fault_tolerant:
        members = state.group.agreed_members()
        state.respawns.note(state.tracker.mark_failed(members), number)
        due = state.respawns.due(members, number)
        if not due:
            break
        with state.clock.phase("rejoin"):
            _respawn(state, due[:1], number)


def _respawn(state: RunState, silos: tuple[int, ...], number: int) -> None:
    state.commit(number, forced=True)  # first: whatever comes of a silo that is started again
    reason = state.respawns.only_by_restart(silos, state.group.members)
    if reason:
        raise StoppedError(f"{reason}: --resume goes on after round {number} with all silos", rank=0)
    state.logger.notice(f"{silos_text(silos)} failed: respawning")
    began = time.perf_counter()
    reason = state.respawns.respawn(
        state.group, silos, number, lambda: _rejoin_state(state, silos, number).encode()
    )
    if reason:
        state.logger.notice(f"{reason}; the survivors go on")
        return
    state.checkpoints.own_state(silos)  # theirs: this rank gives what it keeps of it
    state.federation.rebuild(silos)
    watched = state.federation.context.watched
    if watched is not None:
        watched.share(silos)
    state.tracker.mark_rejoined(silos)
    state.logger.notice(f"{silos_text(silos)} rejoined after {time.perf_counter() - began:.1f} s")
    if state.group.comm.rank != 0:
        state.logger.step_down()


def _rejoin_state(state: RunState, silos: tuple[int, ...], number: int) -> RejoinState:
    """What the silos that rejoin have to know."""
    return RejoinState(
        silos=silos,
        round=number,
        completed=state.group.completed + 1,
        path=state.respawns.told_path(state.path, state.group.silo_id),
        rounds=state.logger.rounds,
        affordable=state.affordable,
        run=str(state.federation.context.trust.run),
        parts=rejoin_state(state.federation.parts),
    )
