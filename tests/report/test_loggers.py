"""Loggers write what their programs read, and none of them can end a run."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from silofl import config as configuration
from silofl.config import Config
from silofl.errors import ConfigError, MissingDependencyError
from silofl.federation.early_checks import Start, refuse_early
from silofl.report.loggers import registry
from silofl.report.loggers.base import scalars_of
from silofl.report.loggers.mlflow import MlflowLogger
from silofl.report.loggers.registry import Loggers, named
from silofl.report.loggers.tensorboard import EventFiles
from silofl.report.loggers.wandb import WandbLogger
from silofl.report.round_metrics import RoundMetrics

PLAN = {"first_round": 1}


def settings(*loggers: str, **sections: dict[str, Any]) -> Config:
    return configuration.parse(
        {"run": {"name": "mine", "dir": "runs/x", "loggers": list(loggers)}} | sections
    )


def metrics(number: int, epsilon: float | None = None) -> RoundMetrics:
    return RoundMetrics(
        number,
        {"loss": 1.0 / number, "accuracy": 0.5, "top@5": 0.9},
        epsilon=epsilon,
        bytes_sent=10,
        seconds=0.1,
        seconds_by_phase={"train": 0.05},
        per_silo=[{"accuracy": 0.25}, {"accuracy": 0.75}],
    )


class Recorded(list[tuple[str, Any]]):
    """Calls of a fake module, in order."""

    def call(self, name: str) -> Any:
        def record(*args: Any, **keys: Any) -> Any:
            self.append((name, (args, keys)))
            return SimpleNamespace(info=SimpleNamespace(run_id="1"), experiment_id="7")

        return record

    def of(self, name: str) -> list[Any]:
        return [value for one, value in self if one == name]


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The part of MLflow's public interface that is used."""
    calls, module, entities = Recorded(), ModuleType("mlflow"), ModuleType("mlflow.entities")
    names = ("create_experiment", "create_run", "log_batch", "set_terminated")
    client = SimpleNamespace(
        **{name: calls.call(name) for name in names}, get_experiment_by_name=lambda name: None
    )

    def made(tracking_uri: str) -> Any:
        calls.append(("uri", tracking_uri))
        return client

    module.MlflowClient = made  # type: ignore[attr-defined]
    entities.Param = entities.Metric = lambda *args: args  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    return calls


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The part of W&B's public interface that is used."""
    calls, module = Recorded(), ModuleType("wandb")

    class Settings:
        model_fields = dict.fromkeys(("console", "silent", "disable_git", "disable_code"))

        def __init__(self, **keys: Any) -> None:
            assert keys.keys() == self.model_fields.keys()

    def init(**keys: Any) -> Any:
        calls.append(("init", keys))
        return SimpleNamespace(log=calls.call("log"), finish=calls.call("finish"))

    module.Settings, module.init = Settings, init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "")
    monkeypatch.delenv("WANDB_ERROR_REPORTING")
    return calls


def test_tensorboard_reads_the_rounds_and_a_resume_hides_what_it_repeats(tmp_path: Path) -> None:
    first = EventFiles(tmp_path, settings())
    first.begin(PLAN)
    for number in (1, 2, 3):
        first.round(metrics(number))
    first.finish({})
    second = EventFiles(tmp_path, settings())
    second.begin({"first_round": 3})
    second.round(metrics(3))
    second.close()
    seen = EventAccumulator(str(tmp_path / "trace")).Reload()
    assert [(e.step, round(e.value, 4)) for e in seen.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 0.3333)]
    assert seen.Scalars("silo-1/accuracy")[0].value == 0.75
    assert "seconds/train" in seen.Tags()["scalars"]


def test_mlflow_has_the_rounds_below_the_run_directory(tmp_path: Path, mlflow: Recorded) -> None:
    secret = {"options": {"token": "sesame"}}
    logger = MlflowLogger(tmp_path, settings("mlflow", task=secret, secure={"identity": "/home/me/key"}))
    logger.begin(PLAN)
    logger.round(metrics(2, epsilon=1.5))
    logger.finish({})
    logger.close()
    assert mlflow.of("uri") == [f"sqlite:///{tmp_path}/mlflow/mlflow.db"]
    *parts, points = (given for _, given in mlflow.of("log_batch"))
    params = dict(pair for part in parts for pair in part["params"])  # MLflow takes 100 at a time
    assert params["train.lr"] == "0.05"
    assert not {"sesame", "/home/me/key", "runs/x"} & {*params.values()}
    found = {name: (value, step) for name, value, _, step in points["metrics"]}
    assert found["loss"] == (0.5, 2)
    assert found["epsilon"] == (1.5, 2)
    assert found["top_5"] == (0.9, 2)  # MLflow takes no @
    assert mlflow.of("set_terminated") == [(("1", "FINISHED"), {})]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_mlflow_takes_no_more_than_it_may_in_one_call(tmp_path: Path, mlflow: Recorded) -> None:
    logger = MlflowLogger(tmp_path, settings("mlflow", task={"options": {f"o{k}": k for k in range(150)}}))
    logger.begin(PLAN)
    logger.round(RoundMetrics(1, {"tensor": [[float(k) for k in range(50)] for _ in range(50)]}))
    batches = [keys for _, keys in mlflow.of("log_batch")]
    params, points = ([len(one[kind]) for one in batches if kind in one] for kind in ("params", "metrics"))
    assert max(params) == 100
    assert sum(params) > 200
    assert max(points) == 1000
    assert sum(points) > 2500


def test_mlflow_goes_to_the_server_that_its_variable_names(
    tmp_path: Path, mlflow: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    logger = MlflowLogger(tmp_path, settings("mlflow"))
    logger.begin({"first_round": 4})
    logger.close()
    assert mlflow.of("uri") == ["http://mlflow.example"]
    assert mlflow.of("create_run")[0][1] == {"run_name": "mine from round 4"}
    assert mlflow.of("set_terminated") == [(("1", "KILLED"), {})]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [None, "online"])
def test_wandb_is_offline_unless_its_variable_says_otherwise(
    tmp_path: Path, wandb: Recorded, monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    logger = WandbLogger(tmp_path, settings("wandb"))
    logger.begin(PLAN)
    logger.round(metrics(2))
    logger.finish({})
    logger.close()
    begun = wandb.of("init")[0]
    assert begun["mode"] == (None if mode else "offline")
    assert begun["dir"] == str(tmp_path)
    assert "run.dir" not in begun["config"]
    assert wandb.of("log") == [((scalars_of(metrics(2)),), {"step": 2})]
    assert wandb.of("finish") == [((), {"exit_code": 0})]


@pytest.mark.parametrize("when", ["__init__", "begin", "round", "finish"])
def test_a_logger_that_raises_is_switched_off_with_one_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventFiles, when, refuse)
    told: list[str] = []
    loggers = Loggers(["tensorboard"], tmp_path, settings(), told.append)
    loggers.begin(PLAN)
    for number in (1, 2):
        loggers.round(metrics(number))
    loggers.finish({})
    loggers.close()
    assert len(told) == 1
    assert "tensorboard is switched off" in told[0]
    assert "No space left on device" in told[0]


def test_names_are_refused_before_ranks_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"secure": {"protocol": "plain"}}
    with pytest.raises(ConfigError, match=r"run.loggers = 'mlflo' is none of .* did you mean 'mlflow'"):
        refuse_early(Start(settings("mlflo", **where), 4), range(4))
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'run.loggers has "wandb".*silofl\[wandb\]'):
        refuse_early(Start(settings("wandb", **where), 4), [0])
    refuse_early(Start(settings("wandb", **where), 4), [1])  # which does not lead
    assert named(settings()) == []
    assert named(configuration.parse({})) == []


def test_unset_tensorboard_writes_where_it_is_installed() -> None:
    assert named(configuration.parse({})) == ["tensorboard"]
    assert named(settings("mlflow", "mlflow")) == ["mlflow"]
