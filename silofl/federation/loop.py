"""From a configuration to a trained model: set up, run rounds, commit each, write the results.

`silofl train` calls `train` on every rank, by `entry.py`. For each round it calls `round.py`, then
`results.py`, which tells of the round, and `RunState.commit` of `run_state.py`; between the two failed
silos are respawned by `failure/respawner.py`. A respawned rank enters by `Run.rejoin`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

from silofl import silo_log
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.protocol import Communicator
from silofl.config import Config
from silofl.errors import SiloflError, StopRequestedError
from silofl.federation import start
from silofl.federation.failure.admission import Admission
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.failure.respawn_policy import RespawnPolicy
from silofl.federation.failure.respawner import RejoinState, respawn_failed
from silofl.federation.federation import RunContext
from silofl.federation.no_data import told_columns
from silofl.federation.preparation import Prepared, prepare
from silofl.federation.privacy import guarantee
from silofl.federation.results import conclude, finish
from silofl.federation.round import run_round
from silofl.federation.run_state import RunState
from silofl.federation.run_trust import what_returning_silos_are_told
from silofl.federation.schema import agree_on_schema, digest
from silofl.federation.standardization import agree_on_statistics, dumps
from silofl.federation.start import build_silo, build_task, read_data, take_directory
from silofl.federation.stop import StopRequest
from silofl.launcher import watchdog
from silofl.tasks.base import Task
from silofl.tasks.files import Files
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
    prepared = prepare(config, comm=comm, resume=resume, own_task=task is not None, on_directory=on_directory)
    return train_prepared(prepared, task, stop)


def train_prepared(prepared: Prepared, task: Task | None, stop: StopRequest) -> Json:
    """`train` after `prepare`; collective."""
    with prepared.peers:
        return _train_prepared(prepared, task, stop)


def _train_prepared(prepared: Prepared, task: Task | None, stop: StopRequest) -> Json:
    config, silos, group, path = prepared.start.config, prepared.start.silos, prepared.group, prepared.path
    trust = prepared.trust
    built = build_task(group, config, task)
    if isinstance(built, Files) and prepared.samples is not None:
        built.take_up(group.silo_id, prepared.samples)
        prepared.samples = None
    assert trust.signer is not None, "every silo of a run has keys"
    signer, resume, lock, statistics = trust.signer, prepared.start.resume, None, None
    if isinstance(built, Files) and built.federated:
        if config.privacy.unit != "none":
            guarantee.refuse_unhidden(config, silos)  # the same on every rank
            lock = take_directory(group, path, trust, resumed=resume)  # before anything is spent
        statistics = agree_on_statistics(group, config, built, silos, trust, path, resume=resume)
        built.agree(statistics.preprocessing)
    code = UserCode(group.silo_id, path)
    data = read_data(group, config, built, code, silos, prepared.local_rank)
    data = told_columns(group, config, built, data, silos)
    same = group.step(lambda: agree_on_schema(group.comm, data.schema))  # before a model is made
    notices = [*prepared.notices, *same]
    silo = build_silo(group, config, built, code, silos, prepared.local_rank, data)
    model, columns = silo.model.fingerprint(), digest(silo.schema)
    told = what_returning_silos_are_told(
        trust, prepared.place.told(path), dumps(statistics) if statistics else "", group.comm.groups
    )
    admission = group.step(lambda: Admission.of(group.comm, config, group.silo_id, model, columns, signer))
    respawns = group.step(
        lambda: RespawnPolicy.of(group, config.failure.rejoin_s, admission, prepared.place, told)
    )
    with raise_on_all_ranks(group.comm):
        context = RunContext.of(group, config, silo, silos, path, respawns, trust, statistics)
    return Run(context, path, stop, resumed=resume).train(notices, lock)


class Run:
    """One rank's rounds, from the first to the last. All calls are collective."""

    def __init__(self, context: RunContext, path: Path, stop: StopRequest, *, resumed: bool) -> None:
        config, group = context.config, context.group
        self._context, self._path, self._stop, self._resumed = context, path, stop, resumed
        faults = [] if resumed else config.failure.faults
        self._faults = FaultInjector(group.comm, faults, group.silo_id)
        watchdog.start(silent_s=config.failure.silent_s, silo=group.silo_id, resume=RESUME)

    def train(self, notices: list[str], lock: IO[bytes] | None = None) -> Json:
        """Run from the first round, or from the last that was committed; the summary. `notices` are told.

        `lock`: see `start.begin`.
        """
        state = start.begin(self._context, self._path, notices, resumed=self._resumed, lock=lock)
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
            with state.federation.context.arrivals or nullcontext():
                self._rounds(state)
            self._faults.tell_left()
            return finish(state)
        except SiloflError as error:
            state.keep_last_round(error)
            raise
        finally:
            state.logger.close()
            silo_log.end()
            watchdog.stop()

    def _rounds(self, state: RunState) -> None:
        """Run and commit every round that is left."""
        rounds, every = state.config.run.rounds, state.config.run.evaluate_every
        shown = state.config.evaluates
        state.clock.take()
        began = time.perf_counter()
        watched = state.federation.context.watched
        for number in range(state.first_round, rounds + 1):
            self._faults.round = number
            silo_log.begin_round(number)
            watchdog.report_round(number, state.certainly_committed(number))
            if watched is not None and watched.ended:
                state.logger.notice(watched.ended)
                break
            if not state.affordable:
                state.logger.notice(
                    f"round {number} would exceed privacy.max_epsilon or a silo's own budget: the run ends"
                )
                break
            last = number == rounds or state.affordable == 1
            evaluate = shown and (last or number % every == 0)
            result = run_round(state.federation, number, state.clock, evaluate=evaluate)
            asked = conclude(state, result, began, asked=self._stop.asked)
            last = last or (watched is not None and bool(watched.ended))
            stopping = asked and not last
            began = time.perf_counter()
            if not (last or stopping):
                respawn_failed(state, number)  # it commits the round first, for the silos that are there
            state.commit(number, forced=last or stopping)
            if stopping:
                raise StopRequestedError(f"stopped as asked after round {number}; --resume goes on", rank=0)
            state.group.comm.mark("between rounds")
