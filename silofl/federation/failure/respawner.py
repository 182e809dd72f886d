"""Bringing failed silos back between two rounds: the survivors' side, and the returning silo's own."""

from __future__ import annotations

import time

from silofl.federation.failure.rejoin_state import RejoinState
from silofl.federation.run_state import RunState
from silofl.federation.stateful import rejoin_state
from silofl.report.round_metrics import silos_text


def respawn_failed(state: RunState, number: int) -> None:
    """Start failed silos again after round `number`, one after the other; collective with their `rejoin`.

    Not in one go: they would be one job, of which Open MPI's launcher ends all when one dies again.
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
    state.logger.notice(f"{silos_text(silos)} failed: respawning")
    began = time.perf_counter()
    reason = state.respawns.respawn(state.group, silos, number, lambda: _rejoin_state(state, silos, number))
    if reason:
        state.logger.notice(f"{reason}; the survivors go on")
        return
    state.checkpoints.own_state(silos)
    state.federation.rebuild(silos)
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
