"""From a configuration to a trained model: set up, run rounds, commit each, write the results."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from silofl.aggregation.shards import Shards
from silofl.comm.collective_errors import allgather_object, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup, RankFailure
from silofl.comm.protocol import Communicator
from silofl.config import Config
from silofl.errors import AskedError, SiloflError
from silofl.federation import rundir
from silofl.federation.checkpoint_manager import CheckpointManager
from silofl.federation.clock import Clock
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.failure.membership_tracker import MembershipTracker
from silofl.federation.failure.policy import refuse_idle_faults, silos_text, stop_reason
from silofl.federation.failure.respawn_policy import RespawnPolicy
from silofl.federation.federation import Federation, RunContext, build_silo, build_task, join, setup
from silofl.federation.handshake import agree_on_version_and_config
from silofl.federation.privacy.guarantee import over_budget
from silofl.federation.round import RoundResult, run_round
from silofl.federation.round_metrics import notices_of, plan_of, record_of, summary_of
from silofl.federation.run_logger import RunLogger
from silofl.federation.silo import Silo
from silofl.federation.stop import StopRequest
from silofl.launcher import watchdog
from silofl.tasks.base import Task

Record = dict[str, Any]
RESUME = "start the same command with --resume"


def train(
    config: Config,
    task: Task | None = None,
    *,
    comm: Communicator,
    resume: bool = False,
    on_directory: Callable[[Path], None] = lambda path: None,
    stop: StopRequest | None = None,
) -> Record:
    """Run a federation to its last round; collective. Returns the summary that `summary.json` holds.

    Args:
        config: the same on every rank but for `config.LOCAL_KEYS`.
        task: this silo's problem; built from [task] when None.
        comm: rank k is silo k.
        resume: go on from the last committed round of the run directory, if there is one.
        on_directory: told the run directory as soon as it exists.
        stop: what hears the warning; from here on when None.

    Raises:
        StoppedError: asked to stop by SIGTERM or SIGUSR1, or too many silos are lost; --resume goes on.
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
    run = Run(group, config, silo, comm.size, path, stop, resumed=resume, respawns=respawns)
    run.begin()
    group.started()
    return run.complete()


class Run:
    """One rank's part of a run between set-up and summary. All calls are collective.

    It starts with `begin`, or with `rejoin` on a rank that comes back while the others are in `_call_back`.
    """

    def __init__(
        self,
        group: ElasticGroup,
        config: Config,
        silo: Silo,
        silos: int,
        path: Path,
        stop: StopRequest,
        *,
        resumed: bool,
        respawns: RespawnPolicy,
    ) -> None:
        self._group, self._config, self._silo, self._silos = group, config, silo, silos
        self._path, self._stop, self._resumed, self._respawns = path, stop, resumed, respawns
        self._faults = FaultInjector(group.comm, [] if resumed else config.failure.faults, group.silo_id)
        self._logger = RunLogger(config, path, leads=False)
        self._clock = Clock()
        self._first, self._told = 1, 0
        self._membership = MembershipTracker(())
        self._changed = False
        self._affordable = 2
        """How many more rounds the run may spend privacy on, up to 2."""
        self._federation: Federation
        self._checkpoints: CheckpointManager
        watchdog.start(silent_s=config.failure.silent_s, silo=group.silo_id, resume=RESUME)

    def _open(self) -> CheckpointManager:
        with raise_on_all_ranks(self._group.comm):
            self._lock = rundir.lock(self._path, self._group.silo_id, resume=self._resumed)
            return self._checkpoints_alone()

    def _checkpoints_alone(self) -> CheckpointManager:
        return CheckpointManager(
            self._group, self._config, self._path, self._silo.model.fingerprint(), self._silos
        )

    def begin(self) -> None:
        """Put all parts together, restore the last committed round if asked to, say what is about to run."""
        group, config = self._group, self._config
        with raise_on_all_ranks(group.comm):
            context = RunContext.of(group, config, self._silo, self._silos, self._path)
        self._federation = setup(group, context)
        self._membership = MembershipTracker(self._federation.members)
        self._checkpoints = group.step(self._open)
        self._logger = RunLogger(config, self._path, leads=group.comm.rank == 0)
        notices = self._restore() if self._resumed else []
        notices += self._federation.begin(self._first - 1)
        self._affordable = group.step(lambda: allgather_object(group.comm, self._federation.affordable()))[0]
        if self._first == 1 and not self._affordable:
            raise over_budget(config.privacy.max_epsilon)

        def say() -> None:
            with raise_on_all_ranks(group.comm):
                self._logger.begin(self._plan(), resume=self._resumed)

        group.step(say)
        for notice in notices:
            self._logger.notice(notice)

    def complete(self, committing: int | None = None) -> Record:
        """Run every round that is left, after others come back and round `committing` is committed; end."""
        try:
            if committing is not None:
                self._call_back(committing)
                self._commit(committing, forced=False)
            self._rounds()
            return self._finish()
        except SiloflError as error:
            self._keep_last_round(error)
            raise
        finally:
            self._logger.close()
            watchdog.stop()

    def _plan(self) -> Record:
        return plan_of(self._federation, self._first, str(self._path))

    def _restore(self) -> list[str]:
        restored = self._checkpoints.latest()
        if restored is None:
            return []
        own = self._group.silo_id in restored.members
        self._federation.restore(restored.state, restored.members, member=own)
        away = tuple(silo for silo in self._federation.members if silo not in restored.members)
        self._membership = MembershipTracker(restored.members)
        self._membership.mark_rejoined(away)
        self._first = restored.round + 1
        return [
            *restored.notices,
            *([f"{silos_text(away)} away in round {restored.round} and back"] if away else []),
        ]

    def _rounds(self) -> None:
        """Run and commit every round that is left."""
        self._clock.take()
        began = time.perf_counter()
        for number in range(self._first, self._config.run.rounds + 1):
            self._faults.round = number
            watchdog.report_round(number, self._certainly_committed(number))
            if not self._affordable:
                self._logger.notice(f"round {number} would exceed privacy.max_epsilon: the run is over")
                break
            last = number == self._config.run.rounds or self._affordable == 1
            evaluate = last or number % self._config.run.evaluate_every == 0
            result = run_round(self._federation, number, self._clock, evaluate=evaluate)
            stopping = self._conclude(result, began) and not last
            began = time.perf_counter()
            if not (last or stopping):
                self._call_back(number)
            self._commit(number, forced=last or stopping)
            if stopping:
                raise AskedError(f"stopped as asked after round {number}; --resume goes on", rank=0)
            self._group.comm.mark("between rounds")

    def _certainly_committed(self, number: int) -> int:
        """The newest round that is on disk for good when round `number` begins, or 0.

        A round's files are known to be written one meeting later, and its manifest two.
        """
        every = self._config.checkpoint.every
        return max(self._first - 1, (number - 3) // every * every if every else 0)

    def _conclude(self, result: RoundResult, began: float) -> bool:
        """Write and show the round's line; whether any rank was asked to stop.

        The line comes before the commit of its round: one too many is dropped by a resume, one too few would
        be lost. The round before is settled in the same exchange.
        """
        group = self._group
        mine = {
            "silo": group.silo_id,
            "shown": result.shown(self._config),
            "phases": self._clock.take(),
            "stop": self._stop.asked,
            "affordable": self._federation.affordable(),
            "epsilon": self._federation.epsilon() if group.comm.rank == 0 else None,
            "clip_norm": self._federation.clip_norm,
        }
        with self._clock.phase("checkpoint"):
            every = group.step(lambda: self._checkpoints.commit_pending(mine, self._logger.problem))
            left = self._follow_changes()
        self._affordable = every[0]["affordable"]
        self._respawns.note(self._membership.mark_failed(left), result.round)
        lost, returned = self._membership.changes()
        failures, self._told = group.failures[self._told :], len(group.failures)
        record = record_of(
            result,
            every,
            self._silos,
            RankFailure(lost, sum(failure.seconds for failure in failures)),
            returned,
            time.perf_counter() - began,
            self._federation.bytes_sent_per_round,
        )
        self._logger.round(record)
        for notice in notices_of(record, self._config.secure.range):
            self._logger.notice(notice)
        return any(report["stop"] for report in every)

    def _follow_changes(self) -> tuple[int, ...]:
        """Make everything anew for the silos that are there, where some were lost; who is there."""
        while self._federation.members != (members := self._group.agreed_members()):
            self._changed = True
            self._federation.rebuild()
        if self._group.comm.rank == 0:
            self._logger.become_leader(self._plan())
        return members

    def _call_back(self, number: int) -> None:
        """Start lost silos again, one after the other; collective with `rejoin` of each.

        Not in one go: they would be one job, of which Open MPI's launcher ends all when one dies again.
        """
        while self._config.failure.policy == "respawn" and self._group.fault_tolerant:
            members = self._group.agreed_members()
            self._respawns.note(self._membership.mark_failed(members), number)
            due = self._respawns.due(members, number)
            if not due:
                break
            with self._clock.phase("return"):
                self._call_one(due[:1], number)

    def _call_one(self, silos: tuple[int, ...], number: int) -> None:
        group = self._group
        self._commit(number, forced=True)  # first: whatever comes of one that is started again
        self._logger.notice(f"{silos_text(silos)} lost: starting again")
        shards = self._federation.server.shards
        rejoin_state = {
            "silos": silos,
            "round": number,
            "path": str(self._path),
            "records": self._logger.records,
            "tracker": self._membership.state(),
            "metrics": self._federation.means.names,
            "shards": [list(shards.members), shards.replica_count],
            "privacy": self._federation.rejoin_state(),
            "affordable": self._affordable,
        }
        began = time.perf_counter()
        if not self._respawns.call(group, silos, number, rejoin_state):
            self._logger.notice(f"{silos_text(silos)} not back in time; the others go on")
            return
        self._checkpoints.own_state(silos)
        self._federation.rebuild(silos)
        self._membership.mark_rejoined(silos)
        self._logger.notice(f"{silos_text(silos)} away for {time.perf_counter() - began:.1f} s and is back")
        if group.comm.rank != 0:
            self._logger.step_down()

    def rejoin(self, rejoin_state: Record) -> None:
        """Come back to the others after the round that they have just completed."""
        group, silos = self._group, tuple(rejoin_state["silos"])
        members, copies = rejoin_state["shards"]
        with suppress(SiloflError):  # the others' locks keep other jobs out, too
            self._lock = rundir.lock(self._path, group.silo_id, resume=True)
        self._checkpoints = self._checkpoints_alone()
        own = self._checkpoints.own_state(silos)
        shards = Shards(self._silo.model.size, tuple(members), copies)
        context = RunContext.of(group, self._config, self._silo, self._silos, self._path)
        context.come_back(None if own is None else own[1], rejoin_state["privacy"])
        self._federation = join(group, context, shards, silos)
        self._federation.means.agree(rejoin_state["metrics"])
        self._membership, self._affordable = (
            MembershipTracker.from_state(rejoin_state["tracker"]),
            rejoin_state["affordable"],
        )
        self._membership.mark_rejoined(silos)
        self._first = rejoin_state["round"] + 1
        self._faults.skip(rejoin_state["round"])
        self._logger.records = rejoin_state["records"]
        if group.comm.rank == 0:
            self._logger.become_leader(self._plan())

    def _commit(self, number: int, *, forced: bool) -> None:
        """Begin to commit a round; complete it at once where it is `forced`.

        A round in which silos were lost is committed whatever `checkpoint.every` says: the one before may
        have been dropped for it.
        """
        every = self._config.checkpoint.every
        if not every or not (forced or self._changed or number % every == 0):
            return
        with self._clock.phase("checkpoint"):
            while True:
                self._follow_changes()
                if self._checkpoints.members() != self._federation.members:
                    continue
                self._changed = False
                self._checkpoints.begin(number, self._federation.state())
                if not forced or self._checkpoints.flush():
                    return

    def _finish(self) -> Record:
        """Write the model and the summary; the summary on every rank."""
        group, logger, federation = self._group, self._logger, self._federation

        def write() -> Record:
            summary: Record = {}
            with raise_on_all_ranks(group.comm):
                if logger.problem is not None:
                    raise logger.problem
                if group.comm.rank == 0:
                    logger.become_leader(self._plan())
                    model = federation.silo.export(federation.global_vector)
                    digest = logger.write_model(model)
                    summary = summary_of(federation, logger.written_records(), digest)
                    logger.write_summary(summary)
            first: Record = allgather_object(group.comm, summary)[0]
            return first

        summary = group.step(write)
        logger.finish(summary)
        federation.close()
        return summary

    def _keep_last_round(self, error: SiloflError) -> None:
        """Commit the round whose files are on their way, if all ranks raised the error together."""
        if error.rank is not None and self._checkpoints.close():
            self._federation.close()
