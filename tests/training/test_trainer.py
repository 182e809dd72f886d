"""Local training: lengths, order, optimizers by name, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from silofl.config import TrainConfig
from silofl.errors import ConfigError, TrainingError, UserCodeError
from silofl.tasks.base import SiloData
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Batches
from silofl.training.evaluate import evaluate
from silofl.training.flat import FlatModel
from silofl.training.metric_states import Evaluation
from silofl.training.trainer import LocalTrainer

CPU = torch.device("cpu")


class Line:
    """Least squares on 10 points of a line."""

    def __init__(self) -> None:
        self.x = torch.linspace(-1, 1, 10, dtype=torch.float64)[:, None]
        self.calls: list[int] = []

    def model(self) -> nn.Module:
        torch.manual_seed(1)
        return nn.Linear(1, 1)

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(TensorDataset(self.x, 3 * self.x + 1))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        self.calls.append(len(x))
        return (model(x) - y).square().mean()

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        return {"close": ((model(x) - y).abs() < 0.1).double().mean()}


def trainer(task: Line, **options: Any) -> tuple[LocalTrainer, FlatModel]:
    model = FlatModel(task.model(), torch.float64, CPU)
    batches = Batches(task.data(0, 1).train, torch.float64, CPU)
    return LocalTrainer(task, model, batches, TrainConfig(**options), seed=0, silo=0), model


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("silofl.training.local_batches.time.monotonic", lambda: self.now)


class Slow(Line):
    """Each loss takes some seconds."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self._clock, self._seconds = clock, seconds

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self._clock.now += self._seconds
        return super().loss(model, batch)


@pytest.mark.parametrize(
    ("seconds", "options", "steps"),
    [
        (1.0, {}, 8),  # three batches an epoch, begun again
        (3.0, {}, 3),
        (100.0, {}, 1),
        (1.0, {"epochs": 2}, 6),
        (1.0, {"steps": 5}, 5),
        (2.0, {"steps": 5}, 4),
        (1.0, {"full_batch": True}, 8),
        (1.0, {"full_batch": True, "steps": 2}, 2),
    ],
)
def test_steps_by_a_budget_of_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float, options: dict[str, Any], steps: int
) -> None:
    task = Slow(Clock(monkeypatch), seconds)
    found = trainer(task, seconds=8.0, batch_size=4, lr=0.01, **options)[0].fit(1)
    assert found.steps == steps


def test_divergence_within_a_budget_of_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Slow(Clock(monkeypatch), 1.0)
    one, model = trainer(task, seconds=400.0, batch_size=4, lr=1e9)
    model.load(model.vector.numpy().copy())
    with pytest.raises(TrainingError, match=r"lower train\.lr"):
        one.fit(1)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"epochs": 2, "batch_size": 4}, [4, 4, 2, 4, 4, 2]),
        ({"steps": 4, "batch_size": 4}, [4, 4, 2, 4]),
        ({"full_batch": True, "steps": 3}, [10, 10, 10]),
        ({"full_batch": True}, [10]),
        ({"batch_size": 100}, [10]),
    ],
)
def test_lengths(options: dict[str, Any], sizes: list[int]) -> None:
    task = Line()
    result = trainer(task, **options)[0].fit(1)
    assert task.calls == sizes
    assert result.steps == len(sizes)


def test_a_round_is_a_function_of_seed_silo_and_round() -> None:
    def run(rounds: list[int]) -> Tensor:
        fitter, model = trainer(Line(), epochs=1, batch_size=3)
        start = model.vector.clone()
        for number in rounds:
            model.vector.copy_(start)
            fitter.fit(number)
        return model.vector.clone()

    assert torch.equal(run([1, 2, 3]), run([3]))
    assert not torch.equal(run([2]), run([3]))


def test_optimizers_by_name_reach_the_line() -> None:
    for name, options in (
        ("SGD", {"momentum": 0.9}),
        ("AdamW", {}),
        ("RMSprop", {"options": {"alpha": 0.9}}),
    ):
        fitter, model = trainer(
            Line(), optimizer=name, lr=0.1, full_batch=True, steps=400, weight_decay=0.0, **options
        )
        fitter.fit(1)
        assert torch.allclose(model.vector, torch.tensor([3.0, 1.0], dtype=torch.float64), atol=0.05), name


def test_kept_optimizer_state_changes_the_second_round_and_survives_a_restore() -> None:
    def two_rounds(keep: bool, restore: bool) -> Tensor:
        fitter, model = trainer(Line(), optimizer="AdamW", full_batch=True, steps=2, keep_optimizer=keep)
        fitter.fit(1)
        if restore:
            state, vector = fitter.optimizer.state(), model.vector.clone()
            fitter, model = trainer(Line(), optimizer="AdamW", full_batch=True, steps=2, keep_optimizer=keep)
            model.vector.copy_(vector)
            fitter.load_state(state, {})
        fitter.fit(2)
        return model.vector.clone()

    assert not torch.equal(two_rounds(True, False), two_rounds(False, False))
    assert torch.equal(two_rounds(True, False), two_rounds(True, True))


def test_the_scale_of_losses_in_float16_survives_a_restore() -> None:
    """With the scaler that a GPU has, on the CPU."""

    def made() -> LocalTrainer:
        fitter, _ = trainer(Line(), full_batch=True, steps=3)
        fitter._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        return fitter

    first, second = made(), made()
    first.fit(1)
    assert first.scaler_state()["scale"] == 2.0**11
    second.load_state({}, first.scaler_state())
    second.fit(2)
    first.fit(2)
    assert second.scaler_state() == first.scaler_state()
    plain, _ = trainer(Line(), full_batch=True)
    assert plain.scaler_state() == {}
    plain.load_state({}, first.scaler_state())  # a silo that goes on without a GPU


def test_clip_norm_bounds_a_step() -> None:
    fitter, model = trainer(Line(), lr=1.0, full_batch=True, clip_norm=0.01)
    before = model.vector.clone()
    fitter.fit(1)
    assert float((model.vector - before).norm()) == pytest.approx(0.01, rel=1e-5)


def test_gradient_over_all_samples_is_the_full_batch_gradient() -> None:
    fitter, _model = trainer(Line(), full_batch=True, batch_size=3)
    gradient, result = fitter.gradient(1)
    task = Line()
    reference = FlatModel(task.model(), torch.float64, CPU)
    loss = task.loss(reference.module, (task.x, 3 * task.x + 1))
    expected = torch.autograd.grad(loss, list(reference.module.parameters()))
    torch.testing.assert_close(gradient, torch.cat([g.reshape(-1) for g in expected]), rtol=1e-14, atol=1e-15)
    assert result.loss == pytest.approx(float(loss))


def test_divergence_names_silo_and_round() -> None:
    fitter, _ = trainer(Line(), lr=1e200, full_batch=True, steps=5)
    with pytest.raises(TrainingError, match=r"silo 0, round 7: training diverged .*train\.lr = 1e\+200"):
        fitter.fit(7)


class Fails(torch.autograd.Function):
    """Passes values on, and fails going backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise ValueError("patient 4711")


@pytest.mark.parametrize("method", ["fit", "corrected", "gradient", "diverged"])
def test_what_a_task_raises_going_backward_is_its_own_error_without_its_text(method: str) -> None:
    class Backward(Line):
        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            return Fails.apply(super().loss(model, batch))  # type: ignore[no-any-return, no-untyped-call]

    one, _ = trainer(Backward())
    calls = {
        "fit": lambda: one.fit(1),
        "corrected": lambda: one.fit(1, lambda gradient, values: None),
        "gradient": lambda: one.gradient(1),
        "diverged": lambda: one.diverged(1, "its update"),
    }
    with pytest.raises(
        UserCodeError, match=r"the task's loss\(\) raised ValueError at test_trainer.py"
    ) as caught:
        calls[method]()
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"optimizer": "SGDD"}, "no class of torch.optim"),
        ({"optimizer": "LBFGS"}, "by a closure, and steps here take one batch each"),
        ({"optimizer": "Optimizer"}, "refuses its options"),
        ({"optimizer": "SGD", "options": {"beta": 1}}, "beta"),
    ],
)
def test_unusable_optimizers_are_refused(options: dict[str, Any], text: str) -> None:
    task = Line()
    with pytest.raises(ConfigError, match=text):
        trainer(task, **options)[0].fit(1)


class Words(Dataset[dict[str, Any]]):
    """Samples as dicts, as a text data set has them."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.full((2,), float(index)), "y": index}


def test_any_map_style_dataset_is_collated() -> None:
    batches = Batches(Words(), torch.float64, CPU)
    seen = [batch for batch, _ in batches.in_order(2)]
    assert [len(b["y"]) for b in seen] == [2, 2, 1]
    assert seen[1]["x"].dtype == torch.float64
    assert seen[1]["x"][0, 0] == 2
    shuffled = torch.cat([b["y"] for b in batches.shuffled(2, torch.Generator().manual_seed(0))])
    assert sorted(shuffled.tolist()) == [0, 1, 2, 3, 4] != shuffled.tolist()


def test_evaluation_is_a_mean_over_samples_not_batches() -> None:
    task, code = Line(), UserCode(0)
    model = FlatModel(task.model(), torch.float64, CPU)
    found = evaluate(task, model, Batches(task.data(0, 1).train, torch.float64, CPU), 4, code)
    found.finish(code)
    assert task.calls == [4, 4, 2]
    expected = float(task.loss(model.module, (task.x, 3 * task.x + 1)))
    assert found.count == 10
    assert found.own["loss"] == pytest.approx(expected)
    assert evaluate(task, model, None, 4, code) == Evaluation()


def test_a_task_that_evaluates_in_one_pass_gives_what_two_passes_give() -> None:
    from silofl.config import DataConfig, TaskConfig
    from silofl.tasks.digits import Digits

    task = Digits(TaskConfig(hidden=[8]), DataConfig(), 0)
    model = FlatModel(task.model(), torch.float32, CPU)
    batch = next(Batches(task.data(0, 3).train, torch.float32, CPU).in_order(50))[0]
    with torch.no_grad():
        once = task.evaluate(model.module, batch)
        twice = {"loss": task.loss(model.module, batch), **task.metrics(model.module, batch)}
    assert once == twice
