"""The federation's metrics are those of all samples together, and no name is special."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import DataError, MismatchError, SiloflError, UserCodeError
from silofl.federation.loop import train
from silofl.tasks import metrics
from silofl.tasks.metrics import Ratio, SumState
from silofl.tasks.user_code import UserCode
from silofl.training.metric_states import MetricState, finished

SILOS = 3
NAN = math.nan


class Scores:
    """Silo k has scores and labels; the model has no part in its metrics. Silo 2 has one class."""

    def __init__(self, report: Any = None, silo: int = 0) -> None:
        self.report, self.silo = report, silo

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def data(self, silo: int, silos: int) -> Any:
        self.silo = silo
        scores, labels = samples(silo)
        data = TensorDataset(scores, labels)
        return data, data

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0][:, None].float()).square().mean()

    def metrics(self, model: nn.Module, batch: Any) -> Any:
        scores, labels = batch
        if self.report is not None:
            return self.report(self.silo, scores, labels)
        guess = (scores > 0.5).long()
        return {
            "auc": metrics.auc(scores, labels),
            "f1": metrics.f1(guess, labels, 2),
            "confusion": metrics.confusion_matrix(guess, labels, 2),
            "error": metrics.mean_absolute_error(scores, labels),
            "right": Ratio((guess == labels).sum(), len(labels)),
        }


def samples(silo: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(silo)
    labels = np.ones(11, int) if silo == 2 else np.arange(20 + 9 * silo) % 2
    scores = np.round(0.6 * rng.random(len(labels)) + 0.4 * labels, 2)
    return torch.from_numpy(scores).float(), torch.from_numpy(labels)


def pooled() -> tuple[Any, Any]:
    scores, labels = zip(*(samples(silo) for silo in range(SILOS)), strict=True)
    return torch.cat(scores).numpy(), torch.cat(labels).numpy()


def federate(path: Path, task: Any = Scores, protocol: str = "secagg", **run: Any) -> list[Any]:
    tables = {
        "run": {"dir": str(path), "display": "plain", "rounds": 1, **run},
        "train": {"batch_size": 7},
        "secure": {"protocol": protocol},
    }
    config = configuration.parse(tables)

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        try:
            return train(config, task(), comm=comm)
        except SiloflError as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=60)


def line_of(path: Path) -> dict[str, Any]:
    """The last line, by a reader that takes JSON and nothing else."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    (line,) = (path / "metrics.jsonl").read_text().splitlines()[-1:]
    found: dict[str, Any] = json.loads(line, parse_constant=refuse)
    json.loads((path / "summary.json").read_text(), parse_constant=refuse)
    return found


@pytest.mark.covering(0)
@pytest.mark.parametrize("protocol", ["plain", "secagg", "additive"])
def test_metrics_are_those_of_all_samples_together(tmp_path: Path, protocol: str, capsys: Any) -> None:
    summary, *others = federate(tmp_path, protocol=protocol)
    assert [one["metrics"] for one in others] == [summary["metrics"]] * 2
    scores, labels = pooled()
    guess, found = scores > 0.5, summary["metrics"]
    assert found["auc"] == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert found["f1"] == pytest.approx(sk.f1_score(labels, guess), abs=1e-12)
    assert found["confusion"] == sk.confusion_matrix(labels, guess).tolist()
    assert found["error"] == pytest.approx(np.abs(scores.astype(float) - labels).mean(), abs=1e-9)
    assert found["right"] == (guess == labels).sum() / len(labels)
    line = line_of(tmp_path)
    assert line["metrics"] == found
    assert (line["auc"], line["undefined_metrics"], line["withheld_metrics"]) == (found["auc"], {}, [])
    assert [silo["auc"] is None for silo in line["per_silo"]] == [False, False, True]
    assert "confusion" not in line["per_silo"][0]  # a silo's own counts stay with it
    shown = capsys.readouterr().out
    for name, value in found.items():
        text = f"{name} {value:.4f}" if name != "confusion" else f"{name} [["
        assert shown.count(text) == 2 - (name == "loss"), text  # in the round's line, and in the last words
    events = EventAccumulator(str(tmp_path / "trace")).Reload()
    assert events.Scalars("f1")[0].value == pytest.approx(found["f1"])
    assert events.Scalars("confusion/1/0")[0].value == found["confusion"][1][0]


def test_a_metric_that_is_no_number_at_a_silo_is_over_the_others_and_told(
    tmp_path: Path, capsys: Any
) -> None:
    odd = {0: NAN, 1: math.inf, 2: 1e39}

    def report(silo: int, scores: Tensor, labels: Tensor) -> Any:
        last = len(scores) < 7
        return {
            "auc": NAN if silo == 2 else float(silo),
            "partly": NAN if silo == 0 and last else 4.0,
            "nowhere": odd[silo],
            "large": 1e36,
            "tiny": 1e-20,
        }

    summary, *_ = federate(tmp_path, lambda: Scores(report))
    found = summary["metrics"]
    assert found["auc"] == pytest.approx(29 / 49)
    assert (found["partly"], found["nowhere"]) == (4.0, None)
    assert found["large"] == pytest.approx(1e36)
    assert found["tiny"] == pytest.approx(1e-20, rel=1e-6)
    line = line_of(tmp_path)
    assert line["undefined_metrics"] == {"auc": 1, "nowhere": 3, "partly": 1}
    assert line["nowhere"] is None
    shown = capsys.readouterr().out
    assert (
        "note: the metric auc is no number (or beyond 2^128) on some held-out samples of 1 of 3 silos"
        in shown
    )
    assert "nowhere no number" in shown


def test_no_name_is_special(tmp_path: Path) -> None:
    names = [
        "round",
        "silo",
        "epsilon",
        "metrics",
        "per_silo",
        "seconds",
        "bytes_sent",
        "train_loss",
        "began",
    ]
    taken = ["loss", "train_loss"]

    def report(silo: int, scores: Tensor, labels: Tensor) -> Any:
        return dict.fromkeys([*names, *taken], 7.5)

    summary, *_ = federate(tmp_path, lambda: Scores(report))
    assert {name: summary["metrics"][name] for name in names} == dict.fromkeys(names, 7.5)
    line = line_of(tmp_path)
    assert (line["round"], line["began"]) == (1, [0, 1, 2])
    assert line["seconds"] != 7.5
    assert summary["loss"] == line["loss"] == line["metrics"]["loss"] != 7.5
    assert line["metrics"]["metrics/loss"] == 7.5
    assert line["per_silo"][1]["train_loss"] != line["per_silo"][1]["metrics/train_loss"] == 7.5
    assert line["silo"] == line["metrics"]["round"] == line["per_silo"][1]["round"] == 7.5
    assert len(line["per_silo"]) == SILOS
    events = EventAccumulator(str(tmp_path / "trace")).Reload()
    assert events.Scalars("round")[0].value == events.Scalars("metrics/seconds")[0].value == 7.5
    assert events.Scalars("bytes_sent")[0].value > 7.5


@pytest.mark.covering(0)
@pytest.mark.parametrize("protocol", ["plain", "secagg"])
def test_where_silos_show_nothing_a_metric_of_few_is_not_added_up(
    tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(silo: int, scores: Tensor, labels: Tensor) -> Any:
        return {"all": 1.0, "one": float(silo) if silo == 1 else NAN, **({"own": 3.0} if silo == 0 else {})}

    summary, *_ = federate(tmp_path, lambda: Scores(report), protocol, share_silo_metrics=False)
    line = line_of(tmp_path)
    assert line["per_silo"] == [{}] * SILOS
    hidden = [] if protocol == "plain" else ["one", "own"]
    assert line["withheld_metrics"] == hidden
    assert set(summary["metrics"]) == {"all", "loss", "one", "own"} - set(hidden)


def test_a_silo_without_held_out_samples_learns_what_others_finish(tmp_path: Path) -> None:
    class Without(Scores):
        def data(self, silo: int, silos: int) -> Any:
            train, test = super().data(silo, silos)
            return train, None if silo == 0 else test

    summaries = federate(tmp_path, Without)
    scores, labels = (np.concatenate([samples(silo)[k].numpy() for silo in (1, 2)]) for k in (0, 1))
    assert summaries[0]["metrics"] == summaries[2]["metrics"]
    assert summaries[0]["metrics"]["auc"] == pytest.approx(sk.roc_auc_score(labels, scores))


def test_one_name_is_one_thing_at_all_silos(tmp_path: Path) -> None:
    def report(silo: int, scores: Tensor, labels: Tensor) -> Any:
        return {"m": SumState(torch.ones(2), torch.sum) if silo == 1 else 1.0}

    for error in federate(tmp_path, lambda: Scores(report)):
        assert isinstance(error, MismatchError)
        assert "the metric 'm' is a number at silo 0 and SumState of shape (2,) at silo 1" in str(error)


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("high", DataError),
        (torch.zeros(2, 2), DataError),
        (SumState(torch.ones(2), "x".index), UserCodeError),
    ],
    ids=["text", "matrix", "finish"],
)
def test_what_goes_wrong_at_one_silo_in_a_later_evaluation_ends_all(
    tmp_path: Path, value: Any, kind: type[SiloflError]
) -> None:
    calls = [0] * SILOS

    def report(silo: int, scores: Tensor, labels: Tensor) -> Any:
        calls[silo] += 1
        return {"m": value if silo == 1 and calls[1] > 1 else 1.0}

    for error in federate(tmp_path, lambda: Scores(report)):
        assert type(error) is kind
        assert (error.exit_code, error.rank) == (2, 1)
        assert str(error).startswith("silo 1: the task's metric")


def test_a_users_error_is_one_sentence_and_its_text_is_the_silos_own(tmp_path: Path) -> None:
    class Broken(Scores):
        calls = 0

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            if model.training and self.silo == 2:
                self.calls += 1
                if self.calls > 1:  # after the trial
                    raise ValueError("patient 4711")
            return super().loss(model, batch)

    for error in federate(tmp_path, Broken):
        assert isinstance(error, UserCodeError)
        assert str(error).startswith("silo 2: the task's loss() raised ValueError at test_metric_sums.py:")
        assert "4711" not in str(error)
    assert "patient 4711" in (tmp_path / "traceback-silo-0002.txt").read_text()
    assert not (tmp_path / "traceback-silo-0000.txt").exists()


@pytest.mark.parametrize("key", ["\x1b[2J", "x" * 101])
def test_a_result_without_a_name_is_one_sentence(key: str) -> None:
    state = MetricState("state", (1,), np.ones(1), lambda total: {key: 1.0}, batches=1)
    with pytest.raises(DataError, match=r"silo 2: the task's metric 'many' has a result .* without a name"):
        finished("many", state, UserCode(2))


def test_the_result_of_no_key_has_the_metrics_own_name() -> None:
    state = MetricState("state", (1,), np.ones(1), lambda total: {"": 0.5, "b": 1.0}, batches=1)
    assert finished("many", state, UserCode(2)) == {"many": 0.5, "many/b": 1.0}
