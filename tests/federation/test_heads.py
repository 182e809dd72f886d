"""Whole federations of every head: as good as one table, used afterwards, resumed, private."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score, roc_auc_score

import silofl
from silofl import config as configuration
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import ConfigError, SiloflError
from silofl.federation.federated_statistics import federated_statistics
from silofl.federation.loop import train
from silofl.inference.evaluation import evaluate_on, labelled_files
from silofl.inference.prediction_file import predictions_of
from silofl.tasks.table_statistics import Shown
from tests.conftest import Start
from tests.tasks.heads import SILOS, TARGETS, columns, settings, write, written

pytestmark = pytest.mark.federations
GOOD = {
    "classification": ("auc", 0.9),
    "regression": ("r2", 0.94),
    "multilabel": ("auc", 0.97),
    "survival": ("c_index", 0.78),
}
"""By head a metric, and what the federation reaches of it; by a run on all tables in one it is as much."""
FEW = [pytest.param(head, marks=[] if head == "regression" else [pytest.mark.long]) for head in GOOD]
"""Of the others, which are as before, `make test` has the parts."""
MORE: dict[str, Any] = {
    "classification": {"task": {"class_weights": "balanced"}},
    "multilabel": {"task": {"class_weights": "balanced"}},
    "survival": {"task": {"intervals": 6}},
}


def federate(config: Config, silos: int = SILOS, **more: Any) -> list[Any]:
    def rank(comm: Any) -> Any:
        torch.set_num_threads(1)
        try:
            return train(config, comm=comm, **more)
        except SiloflError as error:
            return error

    return run_in_threads(silos, rank, timeout_s=60)


def configured(folder: Path, head: str, rounds: int = 25, **sections: Any) -> Config:
    chosen = {"train": {"lr": 0.1, "momentum": 0.9}, **MORE.get(head, {}), **sections}
    return settings(folder, head, rounds, **chosen)


@pytest.mark.parametrize("head", FEW)
def test_a_federation_is_as_good_as_one_table_and_its_model_is_used(tmp_path: Path, head: str) -> None:
    written(tmp_path, head)
    summary = federate(configured(tmp_path, head))[0]
    name, least = GOOD[head]
    assert summary["metrics"][name] >= least
    pooled = tmp_path / "pooled"
    pooled.mkdir()
    every = [columns(head, silo) for silo in range(SILOS)]
    table = {key: np.concatenate([one[key] for one in every]) for key in every[0]}
    write(pooled / "0.csv", table)
    alone = federate(configured(pooled, head, run={"dir": str(pooled / "run")}), 1)[0]
    assert summary["metrics"][name] == pytest.approx(alone["metrics"][name], abs=0.01)
    _used(tmp_path, head, summary)


def _used(folder: Path, head: str, summary: dict[str, Any]) -> None:
    """Loaded, evaluated as the run did it, and applied to new records."""
    model = silofl.load(folder / "run")
    assert model.card.kind == head
    files = [folder / f"{silo}.csv" for silo in range(SILOS)]
    found = evaluate_on(model, labelled_files(model, files, held_out=True))[-1]
    assert found.metrics == pytest.approx(summary["metrics"], rel=1e-9)
    new = columns(head, 9)
    told, features = model.predict(new), {name: new[name] for name in ("age", "dose", "mark")}
    write(folder / "new.csv", features)
    head_line, first = predictions_of(model, folder / "new.csv").splitlines()[:2]
    raw = torch.tensor(np.column_stack([features[name] for name in model.columns]))
    outputs = model(raw).detach().numpy()
    if head == "regression":
        assert r2_score(new["price"], told) > 0.94
        assert np.allclose(outputs[:, 0], told, rtol=1e-7)  # in units, as ONNX has them
        assert head_line == "line,prediction"
        assert float(first.split(",")[1]) == pytest.approx(told[0], rel=1e-6)
        with pytest.raises(ConfigError, match="of a regression, whose outputs are no probabilities"):
            model.predict_proba(new)
    elif head == "classification":
        assert roc_auc_score(new["ill"] == "yes", model.predict_proba(new)[:, 1]) > 0.9
        assert set(told) == {"no", "yes"}
    elif head == "multilabel":
        assert head_line.startswith("line,flu,cold,asthma,probability flu")
        assert model.predict_proba(new).shape == told.shape == (120, 3)
        assert (told[:, 0] == new["flu"]).mean() > 0.7
    else:
        survival = model.predict_proba(new)
        assert survival.shape == (120, 6)
        assert (np.diff(survival, axis=1) <= 0).all()
        assert model.classes == tuple(f"{end:.9g}" for end in model.card.head.recipe.ends)
        assert head_line.startswith(f"line,risk,survival {model.classes[0]},")
        assert np.corrcoef(told, new["days"])[0, 1] < -0.4


@pytest.mark.long
def test_a_linear_regression_comes_to_that_of_one_table(tmp_path: Path) -> None:
    written(tmp_path, "regression")
    config = configured(
        tmp_path,
        "regression",
        60,
        train={"lr": 0.2, "full_batch": True},
        strategy={"name": "fedsgd", "lr": 0.2},
    )
    federate(config.model_copy(update={"secure": config.secure.model_copy(update={"protocol": "secagg"})}))
    from silofl.tasks import build

    task: Any = build(configured(tmp_path, "regression", data={"standardize": False}))
    parts = [task.data(silo, SILOS).train.tensors for silo in range(SILOS)]
    x, y = (np.concatenate([part[k].numpy() for part in parts]) for k in range(2))
    best = LinearRegression().fit(x, y[:, 0])
    new = {name: columns("regression", 9)[name] for name in ("age", "dose", "mark")}
    told = silofl.load(tmp_path / "run").predict(new)
    expected = best.predict(np.column_stack([new[name] for name in sorted(new)]))
    assert np.abs(told - expected).max() < 0.01 * y.std()


@pytest.mark.parametrize("head", ["regression", "survival"])
def test_what_silos_agreed_on_is_kept_for_a_resume(tmp_path: Path, head: str) -> None:
    written(tmp_path, head)
    whole = federate(configured(tmp_path, head, 4, run={"dir": str(tmp_path / "whole")}))[0]
    first = federate(configured(tmp_path, head, 2))[0]
    again = federate(configured(tmp_path, head, 4), resume=True)[0]
    assert again["model_sha256"] == whole["model_sha256"] != first["model_sha256"]
    assert again["preprocessing"]["target"] == whole["preprocessing"]["target"]


PRIVATE = {
    "privacy": {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2, "metrics": "exact"},
    "strategy": {"name": "fedsgd", "lr": 1.0},
    "secure": {"bits": 32},
}


@pytest.mark.parametrize("unit", ["example", pytest.param("patient", marks=pytest.mark.long)])
@pytest.mark.parametrize("head", FEW)
def test_every_head_trains_under_privacy_with_constants(tmp_path: Path, head: str, unit: str) -> None:
    for silo in range(SILOS):
        write(tmp_path / f"{silo}.csv", columns(head, silo) | {"who": np.arange(120) // 2})
    scaling = {"center": {"age": 53.0}, "scale": {"age": 10.0}, "standardize": False}
    if head == "regression":
        scaling = {
            "center": {"age": 53.0, "price": 1e5},
            "scale": {"age": 10.0, "price": 3e4},
            "standardize": False,
        }
    scaling |= {"owner_column": "who"} if unit == "patient" else {"drop": ["who"]}
    config = settings(
        tmp_path, head, 6, data=scaling, **PRIVATE | {"privacy": PRIVATE["privacy"] | {"unit": unit}}
    )
    summary = federate(config)[0]
    name, least = GOOD[head]
    assert summary["metrics"][name] > least - 0.35
    assert 0 < summary["epsilon"] < 100


def test_statistics_of_targets(tmp_path: Path) -> None:
    written(tmp_path, "regression")
    price = np.concatenate([columns("regression", silo)["price"] for silo in range(SILOS)])
    target = _statistics(settings(tmp_path, "regression"))["columns"][-1]
    assert (target["name"], target["kind"], target["count"]) == ("price", "target", len(price))
    assert target["mean"] == pytest.approx(price.mean(), rel=1e-9)
    assert target["deviation"] == pytest.approx(price.std(ddof=1), rel=1e-9)
    written(tmp_path, "survival")
    every = [columns("survival", silo) for silo in range(SILOS)]
    days, died = _statistics(settings(tmp_path, "survival"))["columns"][-2:]
    assert days["mean"] == pytest.approx(np.concatenate([one["days"] for one in every]).mean(), rel=1e-9)
    assert died["counts"]["1"] == sum(one["died"].sum() for one in every)


def _statistics(config: Config) -> dict[str, Any]:
    config = config.model_copy(
        update={"run": config.run.model_copy(update={"dir": config.run.dir + "-stats"})}
    )
    found, _ = run_in_threads(SILOS, lambda comm: federated_statistics(config, Shown(), comm=comm))[0]
    return dict(json.loads(json.dumps(found)))


def test_a_target_in_another_unit_is_refused_by_silo(tmp_path: Path) -> None:
    written(tmp_path, "regression")
    config = settings(tmp_path, "regression")

    def rank(comm: Any) -> Any:
        units = {"price": "EUR" if comm.rank else "USD"}
        own = config.model_copy(update={"data": config.data.model_copy(update={"units": units})})
        with pytest.raises(SiloflError) as caught:
            train(own, comm=comm)
        return str(caught.value)

    said = "the columns of silo 0 are not those of silo 1: 'price' has target in USD and not target in EUR"
    assert all(said in one for one in run_in_threads(SILOS, rank, timeout_s=60))


@pytest.mark.long
def test_onnx_has_numbers_in_the_targets_units(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from silofl.inference.onnx_export import export_onnx

    written(tmp_path, "regression")
    federate(configured(tmp_path, "regression", 2))
    model = silofl.load(tmp_path / "run")
    export_onnx(model, tmp_path / "m.onnx")
    new = columns("regression", 9)
    raw = np.column_stack([new[name] for name in model.columns])
    (found,) = runtime.InferenceSession(tmp_path / "m.onnx").run(None, {"raw": raw})
    assert np.allclose(found[:, 0], model.predict(new), rtol=1e-6)


def test_folders_of_images_are_learnt_by_their_colours(tmp_path: Path) -> None:
    """Red and blue of one brightness, which greys do not tell apart."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for silo, name in ((silo, name) for silo in range(SILOS) for name in ("red", "blue")):
        folder = tmp_path / str(silo) / name
        folder.mkdir(parents=True)
        colour = np.array((200, 90, 90) if name == "red" else (90, 90, 200))
        for k in range(20):
            pixels = colour + rng.integers(-50, 50, (8, 8, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k}.png")
    task = {"name": "files", "model": "cnn", "labels": ["red", "blue"], "image_size": [8, 8]}
    tables = {
        "run": {"dir": str(tmp_path / "run"), "display": "none", "rounds": 3},
        "task": {**task, "class_weights": "balanced"},
        "data": {"path": str(tmp_path / "{silo}"), "standardize": "federated"},
    }
    assert federate(configuration.parse(tables))[0]["accuracy"] > 0.9
    told = predictions_of(silofl.load(tmp_path / "run"), tmp_path / "0" / "red").splitlines()
    assert told[0] == "image,prediction,probability red,probability blue"
    assert told[1].startswith("0.png,red,")


@pytest.mark.long
@pytest.mark.parametrize("head", ["regression", "survival"])
def test_a_silo_dead_and_back_has_the_target_as_the_others(start: Start, tmp_path: Path, head: str) -> None:
    """What they agreed on comes to it with the run's state."""
    written(tmp_path, head, 4)
    tables: dict[str, Any] = {
        "run": {"rounds": 15, "display": "none"},
        "train": {"lr": 0.1, "momentum": 0.9},
        "task": {"name": "files", "head": head, **MORE.get(head, {}).get("task", {})},
        "data": {"path": "{silo}.csv", "target": TARGETS[head], "standardize": "federated"},
        "failure": {"inject": ["kill silo 1 round 3 at train"]},
    }
    (tmp_path / "run.toml").write_text(tomli_w.dumps(tables))
    end = start(4, "train", "run.toml", "--run", "run", ulfm=True).wait(100)
    assert end.code == 0, end.err
    rounds = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [one["round"] for one in rounds if one["rejoined"] == [1]] == [4]
    kept = [
        json.loads((tmp_path / "run" / f"silo-{silo:04d}" / "preprocessing.json").read_text())
        for silo in range(4)
    ]
    assert all(one == kept[0] for one in kept)
    name, least = GOOD[head]
    assert rounds[-1][name] > least - 0.05
