"""From a configuration to a trained model: set up, run rounds, commit each, write the results."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from silofl.aggregation.shards import Shards
from silofl.comm.collective_errors import allgather_object, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.config import Config
from silofl.errors import SiloflError, StopRequestedError
from silofl.federation import rundir
from silofl.federation.checkpoint_manager import CheckpointManager
from silofl.federation.clock import Clock
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.failure.membership_tracker import MembershipTracker
from silofl.federation.failure.policy import refuse_idle_faults, stop_reason
from silofl.federation.failure.rejoin_state import RejoinState
from silofl.federation.failure.respawn_policy import RespawnPolicy
from silofl.federation.failure.respawner import respawn_failed
from silofl.federation.federation import RunContext, build_silo, build_task, join, setup
from silofl.federation.handshake import agree_on_version_and_config
from silofl.federation.privacy.guarantee import over_budget
from silofl.federation.round import RoundResult, run_round
from silofl.federation.run_logger import RunLogger
from silofl.federation.run_state import RunState
from silofl.federation.stop import StopRequest
from silofl.federation.summary import metrics_of, summary_of
from silofl.launcher import watchdog
from silofl.report.round_metrics import silos_text
from silofl.tasks.base import Task

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
    group = ElasticGroup(comm, stop_reason=stop_reason(config, comm.size))
    group.step(lambda: agree_on_version_and_config(group.comm, config))
    if not resume:
        refuse_idle_faults(config, comm.size)
    path = group.step(lambda: rundir.choose(group.comm, config, resume=resume))
    on_directory(path)
    built = build_task(group, config, task)
    silo = build_silo(group, config, built, group.silo_id, comm.size, comm.local_rank)
    respawns = group.step(lambda: RespawnPolicy.of(group, config.failure.rejoin_s))
    with raise_on_all_ranks(group.comm):
        context = RunContext.of(group, config, silo, comm.size, path)
    run = Run(context, path, stop, respawns, resumed=resume)
    run.begin()
    group.started()
    return run.complete()


class Run:
    """One rank's part of a run between set-up and summary. All calls are collective.

    It starts with `begin`, or with `rejoin` on a rank that comes back while the others are in
    `respawn_failed`.
    """

    def __init__(
        self, context: RunContext, path: Path, stop: StopRequest, respawns: RespawnPolicy, *, resumed: bool
    ) -> None:
        config, self._group = context.config, context.group
        self._context, self._config, self._path = context, config, path
        self._stop, self._respawns, self._resumed = stop, respawns, resumed
        faults = [] if resumed else config.failure.faults
        self._faults = FaultInjector(self._group.comm, faults, self._group.silo_id)
        self._state: RunState
        self._seen = 0
        """How many rank failures the lines of metrics have told of."""
        watchdog.start(silent_s=config.failure.silent_s, silo=self._group.silo_id, resume=RESUME)

    def begin(self) -> None:
        """Put all parts together, restore the last committed round if asked to, say what is about to run."""
        group, config = self._group, self._config
        federation = setup(self._context)
        checkpoints = group.step(self._open)
        tracker, logger = MembershipTracker(federation.members), self._new_logger(leads=group.comm.rank == 0)
        self._state = RunState(
            group, config, self._path, federation, checkpoints, logger, Clock(), tracker, self._respawns
        )
        notices = self._restore() if self._resumed else []
        notices += federation.begin(self._state.first_round - 1)
        affordable = group.step(lambda: allgather_object(group.comm, federation.affordable()))
        self._state.affordable = affordable[0]
        if self._state.first_round == 1 and not self._state.affordable:
            raise over_budget(config.privacy.max_epsilon)
        group.step(self._announce)
        for notice in notices:
            logger.notice(notice)

    def rejoin(self, told: RejoinState) -> None:
        """Come back to the others after the round that they have just completed."""
        group, silos = self._group, told.silos
        with suppress(SiloflError):  # the others' locks keep other jobs out, too
            self._lock = rundir.lock(self._path, group.silo_id, resume=True)
        checkpoints = self._new_checkpoints()
        own = checkpoints.own_state(silos)
        self._context.come_back(None if own is None else own[1], told.privacy)
        shards = Shards(self._context.silo.model.trainable, told.members, told.replica_count)
        federation = join(self._context, shards, silos)
        federation.means.agree(told.metrics)
        tracker, logger = MembershipTracker.from_state(told.tracker), self._new_logger(leads=False)
        tracker.mark_rejoined(silos)
        logger.rounds = told.rounds
        self._faults.skip(told.round)
        self._state = RunState(
            group,
            self._config,
            self._path,
            federation,
            checkpoints,
            logger,
            Clock(),
            tracker,
            self._respawns,
            first_round=told.round + 1,
            affordable=told.affordable,
        )
        if group.comm.rank == 0:
            logger.become_leader(self._state.plan())

    def complete(self, committing: int | None = None) -> Json:
        """Run every round that is left, after others come back and round `committing` is committed; end."""
        try:
            if committing is not None:
                respawn_failed(self._state, committing)
                self._state.commit(committing, forced=False)
            self._rounds()
            return self._finish()
        except SiloflError as error:
            self._state.keep_last_round(error)
            raise
        finally:
            self._state.logger.close()
            watchdog.stop()

    def _rounds(self) -> None:
        """Run and commit every round that is left."""
        state, rounds = self._state, self._config.run.rounds
        state.clock.take()
        began = time.perf_counter()
        for number in range(state.first_round, rounds + 1):
            self._faults.round = number
            watchdog.report_round(number, state.certainly_committed(number))
            if not state.affordable:
                state.logger.notice(f"round {number} would exceed privacy.max_epsilon: the run is over")
                break
            last = number == rounds or state.affordable == 1
            evaluate = last or number % self._config.run.evaluate_every == 0
            result = run_round(state.federation, number, state.clock, evaluate=evaluate)
            stopping = self._conclude(result, began) and not last
            began = time.perf_counter()
            if not (last or stopping):
                respawn_failed(state, number)
            state.commit(number, forced=last or stopping)
            if stopping:
                raise StopRequestedError(f"stopped as asked after round {number}; --resume goes on", rank=0)
            self._group.comm.mark("between rounds")

    def _conclude(self, result: RoundResult, began: float) -> bool:
        """Write and show the round's line; whether any rank was asked to stop.

        The line comes before the commit of its round: one too many is dropped by a resume, one too few would
        be lost. The round before is committed in the same exchange.
        """
        state = self._state
        with state.clock.phase("checkpoint"):
            mine = self._report(result)
            reports = self._group.step(lambda: state.checkpoints.commit_pending(mine, state.logger.problem))
            members = state.follow_failures()
        state.affordable = reports[0]["affordable"]
        state.respawns.note(state.tracker.mark_failed(members), result.round)
        failures, self._seen = self._group.failures[self._seen :], len(self._group.failures)
        metrics = metrics_of(
            result,
            reports,
            state.federation.silos,
            failures,
            state.tracker.changes(),
            time.perf_counter() - began,
        )
        state.logger.round(metrics)
        for notice in metrics.notices(self._config.secure.range):
            state.logger.notice(notice)
        return any(report["stop"] for report in reports)

    def _report(self, result: RoundResult) -> Json:
        """What this rank tells the others of its round."""
        federation = self._state.federation
        return {
            "silo": self._group.silo_id,
            "shown": result.shown(self._config),
            "phases": self._state.clock.take(),
            "stop": self._stop.asked,
            "affordable": federation.affordable(),
            "epsilon": federation.epsilon() if self._group.comm.rank == 0 else None,
            "clip_norm": federation.clip_norm,
        }

    def _finish(self) -> Json:
        """Write the model and the summary; the summary on every rank."""
        group, logger, federation = self._group, self._state.logger, self._state.federation

        def write() -> Json:
            summary: Json = {}
            with raise_on_all_ranks(group.comm):
                if logger.problem is not None:
                    raise logger.problem
                if group.comm.rank == 0:
                    logger.become_leader(self._state.plan())
                    digest = logger.write_model(federation.silo.export(federation.values))
                    summary = summary_of(federation, logger.written_rounds(), digest)
                    logger.write_summary(summary)
            first: Json = allgather_object(group.comm, summary)[0]
            return first

        summary = group.step(write)
        logger.finish(summary)
        federation.close()
        return summary

    def _restore(self) -> list[str]:
        """Take up the last committed round, if there is one; notices."""
        state = self._state
        restored = state.checkpoints.latest()
        if restored is None:
            return []
        own = self._group.silo_id in restored.members
        state.federation.restore(restored.state, restored.members, member=own)
        away = tuple(silo for silo in state.federation.members if silo not in restored.members)
        state.tracker = MembershipTracker(restored.members)
        state.tracker.mark_rejoined(away)
        state.first_round = restored.round + 1
        if not away:
            return restored.notices
        return [*restored.notices, f"{silos_text(away)} rejoined, not in round {restored.round}"]

    def _announce(self) -> None:
        with raise_on_all_ranks(self._group.comm):
            self._state.logger.begin(self._state.plan(), resume=self._resumed)

    def _open(self) -> CheckpointManager:
        with raise_on_all_ranks(self._group.comm):
            self._lock = rundir.lock(self._path, self._group.silo_id, resume=self._resumed)
            return self._new_checkpoints()

    def _new_checkpoints(self) -> CheckpointManager:
        context = self._context
        fingerprint = context.silo.model.fingerprint()
        return CheckpointManager(self._group, self._config, self._path, fingerprint, context.silos)

    def _new_logger(self, *, leads: bool) -> RunLogger:
        return RunLogger(self._config, self._path, leads=leads)
