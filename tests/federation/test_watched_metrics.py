"""Early stops and best models: decided together, and the same after a resume, a loss and a return."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError
from silofl.federation.loop import train
from silofl.federation.watched_metrics import Watched, WatchedMetrics, disagreements
from silofl.tasks.base import Metric
from tests.federation import rejoining, threads
from tests.federation.own_scripts import Plain, federate, settings

VALUES = [0.5, 0.7, 0.6, 0.7, 0.65, 0.9, 0.9, 0.9]
"""Of a made-up metric, round by round."""


class Graded(Plain):
    """Whose metric is of the round alone: accuracies are steps that a test cannot plan with."""

    def __init__(self) -> None:
        super().__init__()
        self.round = 0

    def on_round(self, record: Any) -> None:
        self.round = record["round"]

    def metrics(self, model: Any, batch: Any) -> dict[str, Metric]:
        grade = VALUES[min(self.round, len(VALUES) - 1)]
        return {"score": grade, "regret": 1 - grade}


def run(path: Path, *, rounds: int = 8, silos: int = 2, resume: bool = False, **keys: Any) -> Any:
    secure = {"protocol": "secagg", "allow_two": True}
    config = settings(path, run={"rounds": rounds, **keys}, secure=secure)
    return federate(config, Graded, silos, resume=resume)


def model_after(path: Path, rounds: int) -> dict[str, Any]:
    run(path / f"of-{rounds}", rounds=rounds)
    return load_file(path / f"of-{rounds}" / "model.safetensors")


def same(path: Path, other: dict[str, Any]) -> bool:
    arrays = load_file(path / "model.safetensors")
    return all(np.array_equal(arrays[name], other[name]) for name in other)


@pytest.mark.parametrize(
    ("patience", "delta", "stopped", "best"),
    [(1, 0.0, 3, 2), (2, 0.0, 4, 2), (3, 0.0, 5, 2), (4, 0.0, None, 6), (2, 0.3, 3, 2)],
)
def test_a_run_ends_after_so_many_evaluations_and_has_the_best_model(
    tmp_path: Path, patience: int, delta: float, stopped: int | None, best: int
) -> None:
    watch = {"metric": "score", "patience": patience, "min_delta": delta}
    summary = run(tmp_path / "run", stop_when=watch, keep_best="score")
    assert summary["stopped_early"] == stopped
    assert summary["rounds"] == (stopped or 8)
    told = {"metric": "score", "mode": "max", "value": pytest.approx(VALUES[best - 1]), "round": best}
    assert summary["best"] == told
    assert same(tmp_path / "run", model_after(tmp_path, best))
    assert not same(tmp_path / "run", model_after(tmp_path, best + 1))


def test_less_may_be_better() -> None:
    def higher(**keys: Any) -> bool:
        config = settings(Path("runs"), run={"keep_best": keys})
        assert config.run.keep_best is not None
        return config.run.keep_best.higher

    assert [higher(metric=name) for name in ("auc", "loss", "val_loss", "mean_squared_error")] == [True] + [
        False
    ] * 3
    assert [higher(metric=name) for name in ("rmse", "mae", "brier_score")] == [False] * 3
    assert [higher(metric=name) for name in ("r2", "c_index", "auc/flu", "top@5", "F1")] == [True] * 5
    assert higher(metric="loss", mode="max")
    with pytest.raises(ConfigError, match="watches 'grade', of whose name nobody knows"):
        higher(metric="grade")
    assert not higher(metric="regret", mode="min")


@pytest.mark.parametrize("cut", [2, 3, 4])
def test_a_resumed_run_decides_as_the_whole_one(tmp_path: Path, cut: int) -> None:
    keys: dict[str, Any] = {"stop_when": {"metric": "regret", "patience": 3, "mode": "min"}}
    keys |= {"keep_best": {"metric": "regret", "mode": "min"}}
    whole = run(tmp_path / "whole", **keys)
    run(tmp_path / "part", rounds=cut, **keys)
    resumed = run(tmp_path / "part", resume=True, **keys)
    again = run(tmp_path / "part", resume=True, rounds=30, **keys)  # it has ended, however long it might be
    assert whole["stopped_early"] == 5
    for one in (resumed, again):
        assert {key: one[key] for key in ("model_sha256", "best", "rounds", "stopped_early")} == {
            key: whole[key] for key in ("model_sha256", "best", "rounds", "stopped_early")
        }


def test_one_silo_has_the_best_model_in_its_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "with", rounds=4, keep_best="score")
    run(tmp_path / "without", rounds=4)

    def sizes(folder: str) -> list[int]:
        newest = max((tmp_path / folder / "checkpoints").glob("round-*"))
        return [one.stat().st_size for one in sorted(newest.glob("silo-*.safetensors"))]

    arrays = load_file(tmp_path / "with" / "model.safetensors").values()
    more = [here - there for here, there in zip(sizes("with"), sizes("without"), strict=True)]
    copies = (more[0] - more[1]) / sum(one.nbytes for one in arrays)
    assert 1 <= copies < 1.7  # with its name


def test_the_best_model_survives_the_silo_that_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads.prepare(monkeypatch)

    def go(rounds: int, *, resume: bool) -> Any:
        tables = {"dir": str(tmp_path / "run"), "rounds": rounds, "keep_best": "score"}
        inject = [] if resume else ["kill silo 0 round 3 at train"]
        failure = {"policy": "shrink", "inject": inject}
        config = settings(tmp_path / "run", run=tables, failure=failure, secure={"protocol": "secagg"})

        def rank(comm: Communicator) -> Any:
            return train(config, Graded(), comm=comm, resume=resume)

        return run_in_threads(4, rank, timeout_s=60)

    done = go(5, resume=False)
    assert done[0] is None
    assert done[1]["best"]["round"] == 2
    lost = load_file(tmp_path / "run" / "model.safetensors")
    whole = settings(tmp_path / "two", run={"rounds": 2}, secure={"protocol": "secagg"})
    federate(whole, Graded, 4)
    assert same(tmp_path / "two", lost)


def test_a_silo_that_rejoins_is_given_the_best_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads.prepare(monkeypatch)
    failure = {"policy": "respawn", "inject": ["kill silo 1 round 3 at train"]}
    config = settings(tmp_path, run={"rounds": 5, "keep_best": "score"}, failure=failure)
    held: dict[int, bytes] = {}
    observe = WatchedMetrics.observe

    def spy(watched: WatchedMetrics, number: int, *given: Any) -> None:
        observe(watched, number, *given)
        if number == 5 and watched.best is not None:
            held[watched._group.silo_id] = watched.best.tobytes()

    monkeypatch.setattr(WatchedMetrics, "observe", spy)
    done = rejoining.federate(monkeypatch, config, Graded, 3, 1, after=3)
    assert held.keys() == {0, 1, 2}
    assert len(set(held.values())) == 1
    assert {one["best"]["round"] for one in done} == {2}
    assert len({one["model_sha256"] for one in done}) == 1
    federate(settings(tmp_path / "two", run={"rounds": 2}), Graded, 3)
    assert same(tmp_path / "two", load_file(tmp_path / "model.safetensors"))


class HeldBack(Plain):
    def data(self, silo: int, silos: int) -> Any:
        return super().data(silo, silos)[0], None


@pytest.mark.parametrize(
    ("task", "keys", "sentence"),
    [
        (Plain, {"keep_best": "auc"}, "watches the metric 'auc', and the task has accuracy, loss: name one"),
        (
            Plain,
            {"stop_when": {"metric": "accuracy ", "patience": 1}},
            "run.stop_when watches the metric 'accuracy '",
        ),
        (HeldBack, {"keep_best": "loss"}, "and no silo has held-out samples"),
    ],
)
def test_a_metric_that_there_is_not_is_one_sentence_before_a_round(
    tmp_path: Path, task: type[Plain], keys: dict[str, Any], sentence: str
) -> None:
    assert sentence in str(federate(settings(tmp_path, run=keys), task))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_what_is_known_travels_as_it_is() -> None:
    known = Watched(0.25, 3, 0.5, 2, 7, "ab" * 32)
    assert Watched.parsed(json.loads(json.dumps(vars(known)))) == known
    assert Watched.parsed(None) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"best_value": 99.0}, "silo 1 has kept something else of what run.stop_when and run.keep_best"),
        ({"stopped": 2}, "silo 1 has kept something else of what run.stop_when and run.keep_best"),
        ({}, "the model that was kept for run.keep_best is not that of round 2"),
        ({"since": -1}, "silo 0"),
        ({"best_round": -5}, "silo 0"),
    ],
)
def test_one_silo_cannot_choose_the_model_or_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    """By what it says that it has kept, as it is resumed."""
    keys = {"stop_when": {"metric": "score", "patience": 9}, "keep_best": "score"}
    run(tmp_path, rounds=3, **keys)
    restore = WatchedMetrics.restore

    def lie(watched: WatchedMetrics, state: Any, *given: Any, **more: Any) -> None:
        if watched._group.silo_id == 0:
            state = {"known": {**state["known"], **change}, "best": np.full_like(state["best"], 123.0)}
        restore(watched, state, *given, **more)

    monkeypatch.setattr(WatchedMetrics, "restore", lie)
    assert said in str(run(tmp_path, rounds=4, resume=True, **keys))


def test_a_silo_that_tells_another_metric_is_named() -> None:
    told = {0: {"score": 0.5}, 1: {"score": 0.5}, 2: {"score": 0.9}}
    (sentence,) = disagreements(told, ("score",))
    assert sentence.startswith("silo 2 has another score of all silos than silo 0")
    assert disagreements({0: {"score": None}, 1: {"score": None}}, ("score",)) == []
