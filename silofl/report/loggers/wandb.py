"""Weights & Biases: offline below the run directory, unless W&B's own variables say otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, final

from silofl.config import Config, shared_tables
from silofl.report.loggers.base import scalars_of
from silofl.report.round_metrics import RoundMetrics
from silofl.report.settings_text import settings_text

MODE = "WANDB_MODE"
_ERRORS = "WANDB_ERROR_REPORTING"
_QUIET = {
    "console": "off",
    "silent": True,
    "disable_code": True,
    "disable_git": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
"""Settings by which W&B keeps neither the output, nor code, nor what the machine and its user are called."""


@final
class WandbLogger:
    """One W&B run for each start of a run, under `<run>/wandb`, which `wandb sync` sends on."""

    needs: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"

    def __init__(self, path: Path, config: Config) -> None:
        self._path, self._config = path, config
        self._run: Any = None

    def begin(self, plan: dict[str, Any]) -> None:
        """Start a run with the keys that all silos share."""
        os.environ.setdefault(_ERRORS, "false")  # to W&B's makers
        import wandb

        known = wandb.Settings.model_fields  # names that begin with x_ come and go
        settings = wandb.Settings(**{name: value for name, value in _QUIET.items() if name in known})
        name, first = self._config.run.name or "silofl", plan["first_round"]
        self._run = wandb.init(
            project="silofl",
            name=name if first == 1 else f"{name} from round {first}",
            group=name,
            dir=str(self._path),
            mode=None if os.environ.get(MODE) else "offline",
            config=settings_text(shared_tables(self._config)),
            settings=settings,
        )

    def round(self, metrics: RoundMetrics) -> None:
        """`scalars_of` the round."""
        self._run.log(scalars_of(metrics), step=metrics.round)

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is over."""
        self._end(0)

    def close(self) -> None:
        """The run ended early."""
        self._end(1)

    def _end(self, code: int) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=code)
