"""The start of one rank's run: anew, from the last committed round, or after its silo was respawned."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from silofl.checkpoint import run_keys
from silofl.comm.collective_errors import allgather_parsed, raise_on_all_ranks
from silofl.errors import SiloflError
from silofl.federation import rundir
from silofl.federation.checkpoint_manager import CheckpointManager
from silofl.federation.failure.rejoin_state import RejoinState
from silofl.federation.federation import RunContext, setup
from silofl.federation.privacy.guarantee import over_budget
from silofl.federation.run_logger import RunLogger
from silofl.federation.run_state import RunState
from silofl.federation.run_trust import refuse_leftovers
from silofl.federation.schema import agree_on_schema
from silofl.federation.stateful import take_over
from silofl.report.round_metrics import silos_text


def begin(context: RunContext, path: Path, *, resumed: bool) -> RunState:
    """Put all parts together, restore the last committed round if asked to, say what is about to run.

    Collective.
    """
    group = context.group
    taken_for = group.step(lambda: agree_on_schema(group.comm, context.silo.schema))
    federation = setup(context)

    def lock_directory() -> RunState:
        with raise_on_all_ranks(group.comm):
            lock = rundir.lock(path, group.silo_id, resume=resumed)
            if not resumed:
                refuse_leftovers(path, group.silo_id)
            _keep_keys(context, path)  # under the lock, and before a round leaves anything behind
            return RunState(federation, path, _checkpoints(context, path), logger, lock)

    logger = RunLogger(context.config, path, leads=group.comm.rank == 0)
    state = group.step(lock_directory)
    notices = taken_for + (_restore(state) if resumed else [])
    notices += federation.begin(state.first_round - 1)
    state.affordable = group.step(
        lambda: allgather_parsed(group.comm, federation.affordable(), int, "what it can afford")
    )[0]
    if state.first_round == 1 and not state.affordable:
        raise over_budget(context.config.privacy.max_epsilon)

    def announce() -> None:
        with raise_on_all_ranks(group.comm):
            logger.begin(state.plan(), resume=resumed)

    group.step(announce)
    for notice in notices:
        logger.notice(notice)
    return state


def _restore(state: RunState) -> list[str]:
    """Take up the last committed round, if there is one; notices. Collective."""
    restored, federation = state.checkpoints.latest(), state.federation
    if restored is None:
        return []
    member = state.group.silo_id in restored.members
    federation.restore(restored.state, restored.members, member=member)
    state.first_round = restored.round + 1
    away = tuple(silo for silo in federation.members if silo not in restored.members)
    if not away:
        return restored.notices
    return [*restored.notices, f"{silos_text(away)} rejoined, not in round {restored.round}"]


def rejoin(context: RunContext, path: Path, told: RejoinState) -> RunState:
    """Rejoin survivors after the round that they have just completed; collective with `respawn_failed`."""
    lock = None
    with suppress(SiloflError):  # the survivors' locks keep other jobs out, too
        lock = rundir.lock(path, context.group.silo_id, resume=True)
        _keep_keys(context, path)
    checkpoints, logger = _checkpoints(context, path), RunLogger(context.config, path, leads=False)
    own = checkpoints.own_state(told.silos)
    federation = context.federation(told.silos)
    take_over(federation.parts, told.parts, None if own is None else own[1])
    context.membership.mark_rejoined(told.silos)
    logger.rounds = told.rounds
    state = RunState(
        federation, path, checkpoints, logger, lock, first_round=told.round + 1, affordable=told.affordable
    )
    if context.group.comm.rank == 0:
        logger.become_leader(state.plan())
    return state


def _keep_keys(context: RunContext, path: Path) -> None:
    signer = context.trust.signer
    if signer is not None and signer.of_first_start:
        run_keys.keep(path, context.group.silo_id, signer)


def _checkpoints(context: RunContext, path: Path) -> CheckpointManager:
    fingerprint = context.silo.model.fingerprint()
    return CheckpointManager(context.group, context.config, path, fingerprint, context.silos, context.trust)
