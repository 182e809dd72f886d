"""MLflow: a run in a data base below the run directory, or on the server that MLflow's variables name."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path
from typing import Any, ClassVar, final

from silofl.config import Config, shared_tables
from silofl.report.loggers.base import scalars_of
from silofl.report.round_metrics import RoundMetrics
from silofl.report.settings_text import settings_text

SERVER = "MLFLOW_TRACKING_URI"
MOST_KEYS, MOST_POINTS = 100, 1000
"""That MLflow takes in one call."""
_TELEMETRY = "MLFLOW_DISABLE_TELEMETRY"
_NO_NAME = re.compile(r"[^\w\-. :/]")
"""What MLflow takes in no name of a metric or a parameter."""


@final
class MlflowLogger:
    """One MLflow run for each start of a run; `mlflow ui --backend-store-uri sqlite:///<run>/mlflow/mlflow.db`."""

    needs: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "mlflow"

    def __init__(self, path: Path, config: Config) -> None:
        os.environ.setdefault(_TELEMETRY, "true")  # which is read as it is imported
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._config, folder = config, path.absolute() / "mlflow"
        self._artifacts = None
        if SERVER not in os.environ:
            folder.mkdir(exist_ok=True)
            self._artifacts = (folder / "artifacts").as_uri()
        uri = os.environ.get(SERVER) or f"sqlite:///{folder / 'mlflow.db'}"
        self._client, self._run = MlflowClient(tracking_uri=uri), ""

    def begin(self, plan: dict[str, Any]) -> None:
        """Start a run in the experiment of the run's name, with the keys that all silos share."""
        from mlflow.entities import Param

        name, first = self._config.run.name or "silofl", plan["first_round"]
        known = self._client.get_experiment_by_name(name)
        experiment = (
            self._client.create_experiment(name, artifact_location=self._artifacts)
            if known is None
            else known.experiment_id
        )
        run = self._client.create_run(
            experiment, run_name=name if first == 1 else f"{name} from round {first}"
        )
        self._run = run.info.run_id
        settings = settings_text(shared_tables(self._config))
        keys = [Param(_NO_NAME.sub("_", key), value) for key, value in settings.items()]
        for start in range(0, len(keys), MOST_KEYS):
            self._client.log_batch(self._run, params=keys[start : start + MOST_KEYS])

    def round(self, metrics: RoundMetrics) -> None:
        """`scalars_of` the round."""
        from mlflow.entities import Metric

        now, values = int(time.time() * 1000), scalars_of(metrics)
        points = [
            Metric(_NO_NAME.sub("_", name), value, now, metrics.round) for name, value in values.items()
        ]
        for start in range(0, len(points), MOST_POINTS):
            self._client.log_batch(self._run, metrics=points[start : start + MOST_POINTS])

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is over."""
        self._end("FINISHED")

    def close(self) -> None:
        """The run ended early."""
        self._end("KILLED")

    def _end(self, status: str) -> None:
        run, self._run = self._run, ""
        if run:
            self._client.set_terminated(run, status)
