"""Loggers by their configured name, and all of a run together, none of which can end it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from silofl.config import Config
from silofl.errors import MissingDependencyError, unknown_name
from silofl.report.loggers.base import Logger
from silofl.report.loggers.mlflow import MlflowLogger
from silofl.report.loggers.tensorboard import EventFiles
from silofl.report.loggers.wandb import WandbLogger
from silofl.report.round_metrics import RoundMetrics

LOGGERS: dict[str, type[Logger]] = {
    "tensorboard": EventFiles,
    "mlflow": MlflowLogger,
    "wandb": WandbLogger,
}
"""What `run.loggers` may name."""
_LONGEST_SAID = 200


def refuse_unknown(config: Config) -> None:
    """Raise ConfigError for a name in `run.loggers` that there is not."""
    for name in config.run.loggers or ():
        if name not in LOGGERS:
            raise unknown_name("run.loggers", name, LOGGERS)


def refuse_missing(config: Config) -> None:
    """Raise MissingDependencyError where what a logger in `run.loggers` needs is not installed."""
    for name in config.run.loggers or ():
        kind = LOGGERS[name]
        if find_spec(kind.needs) is None:
            raise MissingDependencyError(
                f'run.loggers has "{name}", and {kind.needs} is not installed: pip install '
                f"'silofl[{kind.extra}]', or leave it out",
                rank=0,
            )


def named(config: Config) -> list[str]:
    """Those of `run.loggers`; unset, TensorBoard's where it is installed."""
    if config.run.loggers is not None:
        return list(dict.fromkeys(config.run.loggers))
    return ["tensorboard"] if find_spec(EventFiles.needs) else []


class Loggers:
    """The loggers of a run on the rank that leads. One that raises is switched off with one notice."""

    def __init__(self, names: Sequence[str], path: Path, config: Config, tell: Callable[[str], None]) -> None:
        self._path, self._config, self._tell = path, config, tell
        self._names, self._on = names, dict[str, Logger]()

    def begin(self, plan: dict[str, Any]) -> None:
        """Start those that are not, as those are when the step in which a run begins is taken again."""
        for name in [one for one in self._names if one not in self._on]:
            self._guard(name, partial(self._start, name, plan))

    def _start(self, name: str, plan: dict[str, Any]) -> None:
        logger = self._on[name] = LOGGERS[name](self._path, self._config)
        logger.begin(plan)

    def round(self, metrics: RoundMetrics) -> None:
        """A round is over."""
        for name, logger in [*self._on.items()]:
            self._guard(name, partial(logger.round, metrics))

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is over."""
        for name, logger in [*self._on.items()]:
            self._guard(name, partial(logger.finish, summary))

    def close(self) -> None:
        """The run ended early, or another rank leads."""
        for name, logger in [*self._on.items()]:
            self._guard(name, logger.close)

    def _guard(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # another program's, of any kind
            self._on.pop(name, None)
            said = f"{type(error).__name__}: {error}"[:_LONGEST_SAID]
            self._tell(f"the logger {name} is switched off, and the run goes on: {said}")
