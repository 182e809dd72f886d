"""What a run tells, to people and to programs: the leading rank shows and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from silofl.checkpoint.atomic_files import write_json
from silofl.config import Config
from silofl.console import LOGGER
from silofl.errors import StorageError
from silofl.federation.rundir import RunDirectory, refuse_second_run
from silofl.report.display import Display, choose_display
from silofl.report.lines import phases
from silofl.report.loggers.registry import Loggers, named
from silofl.report.round_metrics import RoundMetrics
from silofl.report.software import ENVIRONMENT, environment_of

Record = dict[str, Any]


class RunLogger:
    """One rank's part: all ranks know all metrics, so that any can lead on. Calls are not collective."""

    def __init__(self, config: Config, path: Path, *, leads: bool) -> None:
        self._config, self._leads = config, leads
        self._directory = RunDirectory(path)
        self._display: Display = choose_display(config.run.display, path, leader=leads)
        self._loggers = self._choose_loggers()
        self.rounds: list[RoundMetrics] = []
        """Those of this process's rounds, and on a rank that came back those of the rounds that it missed."""

    @property
    def problem(self) -> StorageError | None:
        """What kept a line from being written; ranks raise it together at their next meeting."""
        return self._directory.problem

    def begin(self, plan: Record, *, resume: bool) -> None:
        """Refuse to write over another run; say what is about to run."""
        if self._leads:
            refuse_second_run(self._directory.path, resume=resume)  # another job may have begun meanwhile
            self._directory.begin(self._config, last_round=plan["first_round"] - 1)
            self._tell_environment(plan)
        self._show(plan)

    def _tell_environment(self, plan: Record) -> None:
        path = self._directory.path / ENVIRONMENT
        write_json(path, environment_of(plan), private=False)

    def _choose_loggers(self) -> Loggers:
        names = named(self._config) if self._leads else []
        return Loggers(names, self._directory.path, self._config, self.notice)

    def _show(self, plan: Record) -> None:
        """Say what is about to run, where this rank leads."""
        self._display.begin(plan)
        self._loggers.begin(plan)

    def become_leader(self, plan: Record) -> None:
        """Take over from a leader that is lost, unless this rank leads already."""
        if not self._leads:
            self._leads = True
            self._directory.take_over(self._config, self.rounds, next_round=plan["first_round"])
            self._display = choose_display(self._config.run.display, self._directory.path, leader=True)
            if not (self._directory.path / ENVIRONMENT).exists():  # of a folder of its own
                self._tell_environment(plan)
            self._loggers = self._choose_loggers()
            self._show(plan)

    def step_down(self) -> None:
        """Leave the lead to a rank that came back."""
        if self._leads:
            self._leads = False
            self.close()
            self._display = choose_display(self._config.run.display, self._directory.path, leader=False)
            self._loggers = self._choose_loggers()

    def notice(self, text: str) -> None:
        """A line for people, and for this silo's log."""
        LOGGER.info("%s", text)
        self._display.notice(text)

    def round(self, metrics: RoundMetrics) -> None:
        """A round is over."""
        self.rounds.append(metrics)
        LOGGER.info("%s", f"round over after {metrics.seconds:.2f} s ({phases(metrics.seconds_by_phase)})")
        if self._leads:
            self._directory.append(metrics)
        self._display.round(metrics)
        self._loggers.round(metrics)

    def write_model(self, model: dict[str, Any], card: Mapping[str, str], name: str) -> str:
        """Write a shared model with what it says of itself; its SHA-256."""
        return self._directory.write_model(model, card, name)

    def written_rounds(self) -> list[RoundMetrics]:
        """Every round's line so far, those before a resume, too."""
        return self._directory.rounds()

    def write_summary(self, summary: Record) -> None:
        """Write `summary.json`."""
        self._directory.finish(summary)

    def finish(self, summary: Record) -> None:
        """The run is over."""
        LOGGER.info("the run is over")
        self._display.finish(summary)
        self._loggers.finish(summary)

    def close(self) -> None:
        """Give the terminal back."""
        self._display.close()
        self._loggers.close()
