"""From a configuration to a trained model: set up, run rounds, commit each, write the results."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from silofl.checkpoint.store import CheckpointStore, Restored
from silofl.comm.protocol import Communicator
from silofl.comm.verdict import together
from silofl.config import Config, resumption_tables
from silofl.errors import SiloflError, StoppedError
from silofl.federation import rundir
from silofl.federation.clock import Clock
from silofl.federation.federation import Federation, establish
from silofl.federation.handshake import agree_on_version_and_config
from silofl.federation.metrics import gather
from silofl.federation.record import plan_of, record_of, summary_of
from silofl.federation.round import RoundResult, run_round
from silofl.federation.stop import StopRequest
from silofl.report.display import Display, choose_display
from silofl.tasks import registry as tasks
from silofl.tasks.base import Task

Record = dict[str, Any]


def train(
    config: Config,
    task: Task | None = None,
    *,
    comm: Communicator,
    resume: bool = False,
    on_directory: Callable[[Path], None] = lambda path: None,
) -> Record:
    """Run a federation to its last round; collective. Returns the summary that `summary.json` holds.

    Args:
        config: the same on every rank but for `config.LOCAL_KEYS`.
        task: this silo's problem; built from [task] when None.
        comm: rank k is silo k.
        resume: go on from the last committed round of the run directory, if there is one.
        on_directory: told the run directory as soon as it exists.

    Raises:
        StoppedError: asked to stop by SIGTERM or SIGUSR1; the last round is committed.
        SiloflError: any other failure, the same on every rank.
    """
    agree_on_version_and_config(comm, config)
    path = rundir.choose(comm, config, resume=resume)
    on_directory(path)
    if task is None:
        with together(comm):
            task = tasks.build(config)
    run = Run(comm, config, establish(comm, config, task), path)
    try:
        run.begin(resume=resume)
        run.rounds()
        return run.finish()
    except SiloflError as error:
        run.keep_last_round(error)
        raise
    finally:
        run.close()


class Run:
    """One rank's part of a run between set-up and summary. All calls are collective."""

    def __init__(self, comm: Communicator, config: Config, federation: Federation, path: Path) -> None:
        self._comm, self._config, self._federation = comm, config, federation
        identity = {"config": resumption_tables(config), "model": federation.silo.model.fingerprint()}
        self._store = CheckpointStore(comm, path / "checkpoints", identity, config.checkpoint.keep)
        self._directory = rundir.RunDirectory(path)
        self._display: Display = choose_display(config.run.display, path, leader=comm.rank == 0)
        self._stop = StopRequest()
        self._clock = Clock()
        self._first = 1

    def begin(self, *, resume: bool) -> None:
        """Restore the last committed round if asked to; say what is about to run."""
        restored = self._restore() if resume else None
        with together(self._comm):
            if self._comm.rank == 0:
                rundir.refuse_second_run(self._directory.path, resume=resume)
                self._directory.begin(self._config, last_round=self._first - 1)
        self._display.begin(plan_of(self._federation, self._first, str(self._directory.path)))
        for notice in restored.notices if restored else []:
            self._display.notice(notice)
        if self._config.secure.protocol == "auto" and self._federation.aggregator.in_the_clear:
            self._display.notice(
                f"updates are added up in the clear: among {self._comm.size} silos a sum hides nothing, "
                "for it less one's own update is the other's; three or more are protected"
            )

    def _restore(self) -> Restored | None:
        restored = self._store.latest()
        if restored is not None:
            self._federation.restore(restored.state)
            self._first = restored.round + 1
        return restored

    def rounds(self) -> None:
        """Run and commit every round that is left."""
        self._clock.take()
        began = time.perf_counter()
        for number in range(self._first, self._config.run.rounds + 1):
            last = number == self._config.run.rounds
            evaluate = last or number % self._config.run.evaluate_every == 0
            result = run_round(self._federation, number, self._clock, evaluate=evaluate)
            stopping = self._record(result, time.perf_counter() - began) and not last
            began = time.perf_counter()
            self._commit(number, forced=last or stopping)
            if stopping:
                raise StoppedError(f"stopped as asked after round {number}; --resume goes on", rank=0)

    def _record(self, result: RoundResult, seconds: float) -> bool:
        """Write and show the round's line; whether any rank was asked to stop.

        The line comes before the commit of its round: one too many is dropped by a resume, one too few would
        be lost. The round before is settled in the same exchange.
        """
        shown = result.own if self._config.run.share_silo_metrics else {}
        mine = {"shown": shown, "phases": self._clock.take(), "stop": self._stop.asked}
        with self._clock.phase("checkpoint"):
            every = self._store.settle(mine, problem=self._directory.problem)
        record = record_of(
            result,
            [report["shown"] for report in every],
            [report["phases"] for report in every],
            seconds,
            self._federation.bytes_sent_per_round,
        )
        if self._comm.rank == 0:
            self._directory.append(record)
        self._display.round(record)
        if result.clipped_silos:
            self._display.notice(
                f"{result.clipped_silos} silos had values beyond secure.range = {self._config.secure.range}, "
                "which were clipped; raise it, or leave it out"
            )
        return any(report["stop"] for report in every)

    def _commit(self, number: int, *, forced: bool) -> None:
        every = self._config.checkpoint.every
        if every and (forced or number % every == 0):
            with self._clock.phase("checkpoint"):
                self._store.begin(number, self._federation.state())
                if forced:
                    self._store.drain()

    def finish(self) -> Record:
        """Write the model and the summary; the summary on every rank."""
        summary: Record = {}
        with together(self._comm):
            if self._directory.problem is not None:
                raise self._directory.problem
            if self._comm.rank == 0:
                model = self._federation.silo.export(self._federation.global_vector)
                digest = self._directory.write_model(model)
                summary = summary_of(self._federation, self._directory.records(), digest)
                self._directory.finish(summary)
        summary = gather(self._comm, summary)[0]
        self._display.finish(summary)
        self._federation.close()
        return summary

    def keep_last_round(self, error: SiloflError) -> None:
        """Commit the round whose files are on their way, if all ranks raised the error together."""
        if error.rank is not None:
            self._store.drain()
            self._federation.close()

    def close(self) -> None:
        """Give the terminal back. Not collective."""
        self._display.close()
