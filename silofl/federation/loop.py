"""From a configuration to a trained model: set up, run rounds, commit each, write the results."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.place import Place
from silofl.comm.protocol import Communicator
from silofl.config import Config, for_silo
from silofl.errors import SiloflError, StopRequestedError
from silofl.federation import rundir, start
from silofl.federation.failure.admission import Admission
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.failure.peers import watch_peers
from silofl.federation.failure.policy import refuse_idle_faults, stop_reason
from silofl.federation.failure.rejoin_state import RejoinState
from silofl.federation.failure.respawn_policy import RespawnPolicy
from silofl.federation.failure.respawner import respawn_failed
from silofl.federation.federation import RunContext, build_silo, build_task
from silofl.federation.handshake import agree_on_version_and_config
from silofl.federation.results import conclude, finish
from silofl.federation.round import run_round
from silofl.federation.run_state import RunState
from silofl.federation.run_trust import agree_on_run, what_returning_silos_are_told
from silofl.federation.schema import digest
from silofl.federation.secure_conflicts import refuse_conflicts
from silofl.federation.stop import StopRequest
from silofl.launcher import watchdog
from silofl.tasks.base import Task
from silofl.tasks.user_code import UserCode

Json = dict[str, Any]
RESUME = "start the same command with --resume"


def train(
    config: Config,
    task: Task | None = None,
    *,
    comm: Communicator,
    resume: bool = False,
    on_directory: Callable[[Path], None] = lambda path: None,
    stop: StopRequest | None = None,
) -> Json:
    """Run a federation to its last round; collective. Returns the summary that `summary.json` holds.

    Args:
        config: the same on every rank but for `config.LOCAL_KEYS`.
        task: this silo's problem; built from [task] when None.
        comm: rank k is silo k.
        resume: go on from the last committed round of the run directory, if there is one.
        on_directory: told the run directory as soon as it exists.
        stop: what hears a queue's warning; from here on when None.

    Raises:
        StoppedError: asked to stop by SIGTERM or SIGUSR1, or too many silos failed; --resume goes on.
        SiloflError: any other failure, the same on every rank.
    """
    stop = StopRequest() if stop is None else stop
    start_place = Place.own(comm.local_rank)  # before a user's task may go to another folder
    with raise_on_all_ranks(comm):
        refuse_conflicts(config)
        reason = stop_reason(config, comm.size)
    group = ElasticGroup(comm, stop_reason=reason)
    group.step(lambda: agree_on_version_and_config(group.comm, config))
    if not resume:
        refuse_idle_faults(config, comm.size)
    own = for_silo(config, group.silo_id)
    path = group.step(lambda: rundir.choose(group.comm, own, resume=resume))
    on_directory(path)
    trust = group.step(lambda: agree_on_run(group, config, path, comm.size, resume=resume))
    built = build_task(group, config, task)
    silo = build_silo(group, config, built, UserCode(group.silo_id, path), comm.size, comm.local_rank)
    model, columns = silo.model.fingerprint(), digest(silo.schema)
    assert trust.signer is not None, "every silo of a run has keys"
    signer, told = trust.signer, what_returning_silos_are_told(trust, start_place.told(path))
    admission = group.step(lambda: Admission.of(group.comm, config, group.silo_id, model, columns, signer))
    respawns = group.step(
        lambda: RespawnPolicy.of(group, config.failure.rejoin_s, admission, start_place, told)
    )
    with raise_on_all_ranks(group.comm):
        context = RunContext.of(group, config, silo, comm.size, path, respawns, trust)
    with watch_peers(group, config) as peers:
        group.step(lambda: peers.connect(group.comm))
        return Run(context, path, stop, resumed=resume).train()


class Run:
    """One rank's rounds, from the first to the last. All calls are collective."""

    def __init__(self, context: RunContext, path: Path, stop: StopRequest, *, resumed: bool) -> None:
        config, group = context.config, context.group
        self._context, self._path, self._stop, self._resumed = context, path, stop, resumed
        faults = [] if resumed else config.failure.faults
        self._faults = FaultInjector(group.comm, faults, group.silo_id)
        watchdog.start(silent_s=config.failure.silent_s, silo=group.silo_id, resume=RESUME)

    def train(self) -> Json:
        """Run from the first round, or from the last that was committed; the summary."""
        state = start.begin(self._context, self._path, resumed=self._resumed)
        self._context.group.started()
        return self._complete(state)

    def rejoin(self, told: RejoinState) -> Json:
        """`train` on a rank that was respawned, while the others are in `respawn_failed`."""
        self._faults.skip(told.round)
        state = start.rejoin(self._context, self._path, told)
        return self._complete(state, told.round)

    def _complete(self, state: RunState, committing: int | None = None) -> Json:
        """Run every round that is left, after others rejoin and round `committing` is committed; end."""
        try:
            if committing is not None:
                respawn_failed(state, committing)
                state.commit(committing, forced=False)
            self._rounds(state)
            return finish(state)
        except SiloflError as error:
            state.keep_last_round(error)
            raise
        finally:
            state.logger.close()
            watchdog.stop()

    def _rounds(self, state: RunState) -> None:
        """Run and commit every round that is left."""
        rounds, every = state.config.run.rounds, state.config.run.evaluate_every
        state.clock.take()
        began = time.perf_counter()
        for number in range(state.first_round, rounds + 1):
            self._faults.round = number
            watchdog.report_round(number, state.certainly_committed(number))
            if not state.affordable:
                state.logger.notice(f"round {number} would exceed privacy.max_epsilon: the run is over")
                break
            last = number == rounds or state.affordable == 1
            result = run_round(state.federation, number, state.clock, evaluate=last or number % every == 0)
            stopping = conclude(state, result, began, asked=self._stop.asked) and not last
            began = time.perf_counter()
            if not (last or stopping):
                respawn_failed(state, number)
            state.commit(number, forced=last or stopping)
            if stopping:
                raise StopRequestedError(f"stopped as asked after round {number}; --resume goes on", rank=0)
            state.group.comm.mark("between rounds")
