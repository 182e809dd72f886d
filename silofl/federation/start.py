"""The start of one rank's run: anew, from the last committed round, or after its silo was respawned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeVar

import torch

from silofl import startup
from silofl.checkpoint import run_keys
from silofl.checkpoint.trust import Trust
from silofl.comm.collective_errors import allgather_parsed, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.console import log
from silofl.errors import ConfigError, SiloflError
from silofl.federation import rundir, standardization
from silofl.federation.backdoor_metric import refuse_unknown_target
from silofl.federation.failure.respawner import RejoinState
from silofl.federation.federation import RunContext, setup
from silofl.federation.first_model_check import compare_first_models
from silofl.federation.first_models import agree_on_weights
from silofl.federation.no_data import data_of, is_without
from silofl.federation.own_log import notices_kept
from silofl.federation.run_logger import RunLogger
from silofl.federation.run_state import CheckpointManager, RunState
from silofl.federation.run_trust import refuse_leftovers
from silofl.federation.silo import Silo
from silofl.federation.stateful import take_over
from silofl.federation.task_data import TaskData
from silofl.federation.team import Team
from silofl.report.round_metrics import silos_text
from silofl.tasks import registry as tasks
from silofl.tasks.base import Task
from silofl.tasks.checks import task_of
from silofl.tasks.user_code import UserCode
from silofl.topologies.arrangements.registry import with_data
from silofl.training.device import place, prepare

T = TypeVar("T")


def build_task(group: ElasticGroup, config: Config, task: Task | None) -> Task:
    """The task given, or that of [task]; raises on all ranks what is wrong with it on any."""

    def build() -> Task:
        with raise_on_all_ranks(group.comm):
            return tasks.build(config) if task is None else task_of(task, f"the task {type(task).__name__}")

    return group.step(build)


def read_data(
    group: ElasticGroup, config: Config, task: Task, code: UserCode, silos: int, local_rank: int
) -> TaskData:
    """This silo's data, before its model is made; raises on all ranks what is wrong with any rank's."""

    def read() -> TaskData:
        first = local_rank * config.train.ranks_per_silo
        prepare(torch.device(place(config.train.device, first)))  # a task may read data to its GPU
        with notices_kept(config, code.folder, code.silo):
            return data_of(config, task, code, silos)

    return _once(group, read)


def build_silo(
    group: ElasticGroup,
    config: Config,
    task: Task,
    code: UserCode,
    silos: int,
    local_rank: int,
    data: TaskData | None = None,
) -> Silo:
    """This rank's institution, whose task `code` calls; raises on all ranks what is wrong with any rank's.

    `data` is what `read_data` gave; read here when None.
    """

    ranks = config.train.ranks_per_silo

    def build() -> Silo:
        device = place(config.train.device, local_rank * ranks)
        with notices_kept(config, code.folder, code.silo):
            alone = ranks == 1 or is_without(config, code.silo, silos)
            team = None if alone else Team(config, task, code, silos, local_rank * ranks)
            counted = with_data(config.topology, silos)
            own = data or data_of(config, task, code, silos)
            made = Silo(config, task, code.silo, counted, device, code=code, data=own)
            refuse_unknown_target(config, made.model.module, own.data, code.silo)
            if team is not None:
                team.gather(made.model, made.train)
                made.trainer.team = team
            return made

    silo = _once(group, build)
    group.step(lambda: agree_on_weights(group.comm, silo.weights))
    startup.over()  # the optimizer and the data have loaded the last large libraries
    return silo


def _once(group: ElasticGroup, work: Callable[[], T]) -> T:
    """What `work` gives, done once though the step may be taken again; raises on all what any rank raised."""
    made: list[T] = []

    def done() -> T:
        with raise_on_all_ranks(group.comm):
            if not made:
                made.append(work())
        return made[0]

    return group.step(done)


def take_directory(group: ElasticGroup, path: Path, trust: Trust, *, resumed: bool) -> IO[bytes]:
    """The run directory's lock, as of `rundir.lock`, and this silo's keys on disk; collective.

    Raises ConfigError where a new run's directory has rounds or logs of an old one.
    """

    def take() -> IO[bytes]:
        lock = rundir.lock(path, group.silo_id, resume=resumed)
        if not resumed:
            refuse_leftovers(path, group.silo_id)
        _keep_keys(group, path, trust)
        return lock

    return _once(group, take)


def begin(
    context: RunContext, path: Path, notices: list[str], *, resumed: bool, lock: IO[bytes] | None = None
) -> RunState:
    """Put all parts together, restore the last committed round if asked to, say what is about to run.

    Collective. `notices` are what was found so far, and go first; `lock` is of `take_directory`, which is
    taken here where it is None.
    """
    group = context.group
    federation = setup(context)
    notices = notices + compare_first_models(federation)
    taken = lock or take_directory(group, path, context.trust, resumed=resumed)

    def make() -> RunState:
        with raise_on_all_ranks(group.comm):
            _keep_what_returns_need(context, path)  # before a round leaves anything behind
            return RunState(federation, path, _checkpoints(context, path), logger, taken)

    logger = RunLogger(context.config, path, leads=group.comm.rank == 0)
    state = group.step(make)
    notices = notices + (_restore(state) if resumed else [])
    notices += federation.begin(state.first_round - 1)
    notices += [] if context.trail is None else context.trail.notices
    group.step(lambda: _refuse_other_updates(state))
    watched = context.watched
    if watched is not None:
        watched.refuse_unknown(context.silo.metric_names)
        notices += watched.notices
    state.affordable = group.step(lambda: _affordable(state))

    def announce() -> None:
        with raise_on_all_ranks(group.comm):
            logger.begin(state.plan(), resume=resumed)

    group.step(announce)
    for notice in notices:
        logger.notice(notice)
    return state


def _refuse_other_updates(state: RunState) -> None:
    """Raise ConfigError, on every rank, where the next round was opened and a silo's ranks are others.

    Of two sums that are opened the difference would be what is random in that silo's training. Collective.
    """
    context, number = state.federation.context, state.first_round
    opened = context.openings is not None and context.openings.was_opened(number)
    with raise_on_all_ranks(state.group.comm):
        if opened and context.origin.other_ranks:
            silo = state.group.silo_id
            raise ConfigError(
                f"silo {silo}: round {number} may have been opened before, and train.ranks_per_silo was "
                "another number: resume with that one until the round is committed",
                rank=silo,
            )


def _affordable(state: RunState) -> int:
    """How many more rounds all silos can afford, up to 2; ConfigError without a first one. Collective."""
    federation, own = state.federation, 0
    with raise_on_all_ranks(federation.group.comm):
        if federation.privacy is not None and state.first_round == 1:
            federation.privacy.refuse_unaffordable()
        own = federation.affordable()
    return min(allgather_parsed(federation.group.comm, own, int, "what it can afford"))


def _restore(state: RunState) -> list[str]:
    """Take up the last committed round, if there is one; notices. Collective."""
    federation, openings = state.federation, state.federation.context.openings
    restored = state.checkpoints.latest(0 if openings is None else openings.newest_with_others())
    if restored is None:
        lost = rundir.rounds_told(state.path)
        said = "of them none is committed where checkpoints are looked for: the run begins anew"
        return [f"{state.path} tells of {lost} round(s), and {said}"] if lost else []
    member = state.group.silo_id in restored.members
    federation.restore(restored.state, restored.members, member=member)
    state.first_round = restored.round + 1
    away = tuple(silo for silo in federation.members if silo not in restored.members)
    if not away:
        return restored.notices
    return [*restored.notices, f"{silos_text(away)} rejoined, not in round {restored.round}"]


def rejoin(context: RunContext, path: Path, told: RejoinState) -> RunState:
    """Rejoin survivors after the round that they have just completed; collective with `respawn_failed`."""
    lock, logger = None, RunLogger(context.config, path, leads=False)
    with suppress(SiloflError):  # the survivors' locks keep other jobs out, too
        lock = rundir.lock(path, context.group.silo_id, resume=True)
    if lock is not None:
        try:
            _keep_what_returns_need(context, path)
        except SiloflError as error:
            log(f"silo {context.group.silo_id} cannot keep what a resume needs of it: {error}")
    checkpoints = _checkpoints(context, path)
    own = checkpoints.own_state(told.silos)  # from its disk, or its buddy's: so the others take part
    federation = context.federation(told.silos)
    take_over(federation.parts, told.parts, None if own is None else own[1])
    if context.watched is not None:
        context.watched.share(told.silos)
    context.membership.mark_rejoined(told.silos)
    logger.rounds = told.rounds
    state = RunState(
        federation, path, checkpoints, logger, lock, first_round=told.round + 1, affordable=told.affordable
    )
    if context.group.comm.rank == 0:
        logger.become_leader(state.plan())
    return state


def _keep_what_returns_need(context: RunContext, path: Path) -> None:
    """Have on disk what a resume of this silo goes on with, besides checkpoints."""
    if context.statistics is not None:
        standardization.keep(path, context.group.silo_id, context.statistics)
    _keep_keys(context.group, path, context.trust)


def _keep_keys(group: ElasticGroup, path: Path, trust: Trust) -> None:
    if trust.signer is not None and trust.signer.of_first_start:
        run_keys.keep(path, group.silo_id, trust.signer)


def _checkpoints(context: RunContext, path: Path) -> CheckpointManager:
    fingerprint = context.silo.model.fingerprint()
    return CheckpointManager(context.group, context.config, path, fingerprint, context.silos, context.trust)
