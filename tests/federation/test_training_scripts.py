"""Tasks with methods of a training script's own, in whole federations of threads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from silofl import config as configuration
from silofl.errors import ConfigError, DataError, SiloflError, UserCodeError
from silofl.tasks.base import Optimizers, SizedDataset
from tests.federation.own_scripts import Plain, federate, settings

SECURE: dict[str, Any] = {"protocol": "secagg", "allow_two": True}


class Scheduled(Plain):
    def optimizers(self, model: nn.Module) -> Optimizers:
        optimizer = torch.optim.AdamW(model.parameters(), 0.02)
        cycle = lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=9)
        return Optimizers(optimizer, cycle, over="steps")


class Grouped(Plain):
    def optimizers(self, model: Any) -> torch.optim.Optimizer:
        groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}]
        return torch.optim.SGD(groups, lr=0.02, momentum=0.9)


class Looping(Plain):
    def fit(self, model: nn.Module, data: SizedDataset, round: int) -> Tensor:
        optimizer = torch.optim.SGD(model.parameters(), 0.1 / round)
        loss = torch.zeros(())
        for batch in DataLoader(data, 16):  # type: ignore[arg-type]
            optimizer.zero_grad()
            loss = self.loss(model, batch)
            loss.backward()
            optimizer.step()
        return loss


COSINE = {"name": "cosine", "rounds": 4}


@pytest.mark.parametrize(
    ("task", "train"),
    [
        (Scheduled, {"batch_size": 20}),
        (Scheduled, {"batch_size": 20, "keep_optimizer": True}),
        (Grouped, {"batch_size": 20, "keep_optimizer": True, "schedule": COSINE}),
        (Plain, {"batch_size": 20, "keep_optimizer": True, "momentum": 0.9, "schedule": COSINE}),
        (Looping, {}),
    ],
)
def test_a_script_is_resumed_bit_for_bit(tmp_path: Path, task: type[Plain], train: dict[str, Any]) -> None:
    def run(folder: str, rounds: int, *, resume: bool = False) -> Any:
        config = settings(tmp_path / folder, run={"rounds": rounds}, train=train, secure=SECURE)
        return federate(config, task, resume=resume)

    whole = run("whole", 4)
    run("part", 2)
    assert run("part", 4, resume=True)["model_sha256"] == whole["model_sha256"]


def test_a_loop_of_ones_own_is_averaged_by_numbers_of_samples(tmp_path: Path) -> None:
    class Unequal(Looping):
        def data(self, silo: int, silos: int) -> Any:
            train, test = super().data(silo, silos)
            return torch.utils.data.Subset(train, range(20 * (silo + 1))), test  # type: ignore[arg-type]

    summary = federate(settings(tmp_path, run={"rounds": 1}), Unequal)
    means, losses = [], []
    for silo in range(2):
        task, model = Unequal(), Unequal().model()
        model.load_state_dict(start_of(tmp_path))
        losses.append(task.fit(model, task.data(silo, 2)[0], 1).item())
        means.append(nn.utils.parameters_to_vector(model.parameters()).detach().numpy())
    found = np.concatenate([one.ravel() for one in in_order(tmp_path / "model.safetensors")])
    np.testing.assert_allclose(found, (means[0] + 2 * means[1]) / 3, rtol=0, atol=1e-6)
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert f"{losses[0]:.5f}"[:-1] in lines
    assert summary["rounds"] == 1


def start_of(path: Path) -> dict[str, Tensor]:
    """The model that silos began with."""
    from silofl.federation.silo import Silo

    return Silo(settings(path), Plain(), 0, 2, "cpu").model.module.state_dict()


def in_order(path: Path) -> list[Any]:
    arrays = load_file(path)
    return [arrays[f"{layer}.{kind}"] for layer in (0, 2) for kind in ("weight", "bias")]


class Nonsense(Plain):
    def fit(self, model: nn.Module, data: SizedDataset, round: int) -> Any:
        return {"loss": 1.0}


class Failing(Plain):
    def on_round(self, record: Mapping[str, Any]) -> None:
        if record["round"] == 2 and self.heard:
            raise KeyError("a value of somebody's")
        self.heard.append(record)


PRUNED = {"name": "magnitude", "density": 0.5, "end": 2}


@pytest.mark.parametrize(
    ("task", "sections", "kind", "sentence"),
    [
        (
            Nonsense,
            {},
            DataError,
            "silo 0: the task's fit(model, data, round) returned a dict: ",
        ),
        (
            Failing,
            {},
            UserCodeError,
            "silo 0: the task's on_round() raised KeyError at test_",
        ),
        (Looping, {"train": {"epochs": 2}}, ConfigError, "train.epochs = 2 does nothing: remove it"),
        (Looping, {"train": {"schedule": "cosine"}}, ConfigError, "train.schedule = 'cosine' does nothing"),
        (Looping, {"strategy": {"name": "fedprox"}}, ConfigError, '"fedprox" has a part in each local step'),
        (Looping, {"personal": {"name": "ditto"}}, ConfigError, '"ditto" trains by steps of [train]'),
        (
            Looping,
            {"prune": {"name": "magnitude", "density": 0.5, "end": 2}},
            ConfigError,
            "[prune] holds weights at",
        ),
        (Scheduled, {"train": {"schedule": "linear"}}, ConfigError, "both would set rates: remove one of"),
        (Scheduled, {"train": {"lr": 0.3}}, ConfigError, "train.lr = 0.3 does nothing: remove it"),
        (Scheduled, {"strategy": {"name": "fedsgd"}}, ConfigError, '"fedsgd" takes no step by one'),
        (
            Scheduled,
            {"strategy": {"name": "fednova"}},
            ConfigError,
            '"fednova" reckons with steps of',
        ),
        (Scheduled, {"personal": {"name": "apfl"}}, ConfigError, '"apfl" makes its own by [train]'),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_cannot_be_is_one_sentence(
    tmp_path: Path, task: type[Plain], sections: dict[str, Any], kind: type[SiloflError], sentence: str
) -> None:
    error = federate(settings(tmp_path, **sections), task)
    assert type(error) is kind
    assert sentence in str(error)
    assert "somebody" not in str(error)
    assert "\n" not in str(error)


EXAMPLE: dict[str, Any] = {"unit": "example", "place": "local", "noise_multiplier": 1.0}
EXAMPLE |= {"sample_rate": 0.4, "clipping": "hooks"}


def test_a_loop_of_ones_own_is_refused_where_examples_are_protected(tmp_path: Path) -> None:
    error = federate(settings(tmp_path, privacy=EXAMPLE, train={"steps": 2}), Looping)
    assert 'no example can be clipped by itself, and privacy.unit = "example" protects each' in str(error)
    silo = {"unit": "silo", "place": "local", "noise_multiplier": 1.0}
    error = federate(settings(tmp_path / "a", privacy=silo, run={"participation": 0.5}), Looping)
    assert "may carry over what it did in rounds that do not count" in str(error)
    assert federate(settings(tmp_path / "b", privacy=silo, run={"rounds": 1}), Looping)["rounds"] == 1


def test_own_optimizers_step_along_noisy_gradients(tmp_path: Path) -> None:
    summary = federate(settings(tmp_path, privacy=EXAMPLE, train={"steps": 2}), Scheduled)
    assert summary["rounds"] == 4
    assert summary["epsilon"] > 0


def test_a_collate_that_mixes_examples_is_refused_where_they_are_protected(tmp_path: Path) -> None:
    class Mixing(Plain):
        def collate(self, samples: list[Any]) -> Any:
            x, y = torch.utils.data.default_collate(samples)
            return 0.7 * x + 0.3 * x.roll(1, 0), y  # mixup

    error = federate(settings(tmp_path, privacy=EXAMPLE, train={"steps": 2}), Mixing)
    assert "do not meet" in str(error)


def test_every_silo_hears_of_each_round_also_of_one_that_is_resumed(tmp_path: Path) -> None:
    heard: list[list[Mapping[str, Any]]] = []

    class Hearing(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.rounds = 0
            heard.append(self.heard)

        def on_round(self, record: Mapping[str, Any]) -> None:
            self.heard.append(record)
            self.rounds += 1
            assert record["round"] == self.rounds  # it is in the silo's checkpoint

    federate(settings(tmp_path, run={"rounds": 2}, secure=SECURE), Hearing)
    federate(settings(tmp_path, run={"rounds": 3}, secure=SECURE), Hearing, resume=True)
    assert [[one["round"] for one in own] for own in heard] == [[1, 2], [1, 2], [3], [3]]
    assert heard[0][0]["metrics"] == heard[1][0]["metrics"]
    assert heard[0][0]["accuracy"] > 0


def test_a_parameter_that_does_not_move_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Idle(Plain):
        def model(self) -> nn.Module:
            model = super().model()
            model.register_parameter("spare", nn.Parameter(torch.ones(3)))
            return model

    with caplog.at_level("INFO"):
        federate(settings(tmp_path, run={"rounds": 2}), Idle)
    assert caplog.text.count("training in silo 0 has not moved spare: let the loss depend on every") == 1


def test_the_page_on_tasks_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(configuration.__file__).parents[2] / "docs" / "tasks.md").read_text()
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    assert "class Wards" in code
    exec(compile(code, "tasks.md", "exec"), {"__name__": "wards"})
    said = capsys.readouterr().out
    assert "after round 1: " in said
    assert "'metric': 'accuracy', 'mode': 'max'" in said


@pytest.mark.parametrize("given", [None, 3])
def test_a_collate_that_returns_something_else_is_one_sentence(tmp_path: Path, given: Any) -> None:
    class Odd(Plain):
        def collate(self, samples: list[Any]) -> Any:
            return given

    error = federate(settings(tmp_path), Odd)
    where = (
        "the task's collate(samples) returned None: return a batch" if given is None else "the task's loss()"
    )
    assert where in str(error)
    assert "\n" not in str(error)


def test_metrics_that_privacy_covers_not_decide_nothing() -> None:
    watching = {"keep_best": "auc", "stop_when": {"metric": "auc", "patience": 2}}
    tables = {"run": watching, "privacy": EXAMPLE | {"metrics": "exact"}, "train": {"steps": 2}}
    with pytest.raises(ConfigError, match=r"run\.stop_when and run\.keep_best decide by metrics of held-out"):
        configuration.parse(tables)
