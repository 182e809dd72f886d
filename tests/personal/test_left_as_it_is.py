"""What a silo does for itself alone leaves no trace in what is shared, and is the same in a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.threads import run_in_threads
from silofl.errors import DivergedError
from silofl.federation.loop import train
from silofl.tasks.base import SiloData
from silofl.tasks.classification import Classification

Arrays = dict[str, Any]


class Centered(nn.Module):
    """A linear model that subtracts a running mean, an attribute that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(3, 2)
        self.mean = torch.zeros(3)

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.scores(x - self.mean)


class Points(Classification):
    """Two kinds of points."""

    count = 40

    def model(self) -> nn.Module:
        return nn.Linear(3, 2)

    def data(self, silo: int, silos: int) -> SiloData:
        rng = torch.Generator().manual_seed(silo)
        y = torch.arange(self.count) % 2
        x = torch.randn(self.count, 3, generator=rng) + y[:, None]
        return SiloData(TensorDataset(x, y), TensorDataset(x, y))


class Augmented(Points):
    """Training adds noise by a generator of the task's own."""

    def __init__(self) -> None:
        self.noise = torch.Generator().manual_seed(1)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        if model.training:
            x = x + torch.randn(x.shape, generator=self.noise)
        return nn.functional.cross_entropy(model(x), y)


class WithMean(Points):
    """Another model."""

    def model(self) -> nn.Module:
        return Centered()


class Normalized(Augmented):
    """Batch normalization after dropout."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 2))


class WithDropout(Points):
    """Another model."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))


class FirstIsHeld(nn.Module):
    """The first of two batch normalizations has statistics from elsewhere, and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        nn.init.constant_(self.layers[0].running_mean, 3.0)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> FirstIsHeld:
        """See torch."""
        super().train(mode)
        self.layers[0].eval()
        return self

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


class Held(Points):
    """Another model."""

    def model(self) -> nn.Module:
        return FirstIsHeld()


class Odd(Points):
    """The last batch has one sample."""

    count = 41

    def model(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))


def run(
    path: Path,
    task: Any,
    personal: str,
    *,
    rounds: int = 3,
    every: int = 1,
    resume: bool = False,
    method: Arrays | None = None,
    **keys: Any,
) -> tuple[Arrays, Arrays, Any]:
    """The shared model, the own model and the metrics of a silo by itself."""
    shown = {"name": "b", "dir": str(path), "display": "none", "evaluate_every": every, "rounds": rounds}
    training = {"batch_size": 10, "lr": 0.1, **keys}
    config = configuration.parse(
        {"run": shown, "train": training, "personal": {"name": personal, **(method or {})}}
    )
    (summary,) = run_in_threads(1, lambda comm: train(config, task, comm=comm, resume=resume), timeout_s=60)
    own = path / "silo-0000" / "personal.safetensors"
    return load_file(path / "model.safetensors"), load_file(own) if own.exists() else {}, summary["metrics"]


def equal(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.covering(0)
@pytest.mark.parametrize("name", ["finetune", "ditto"])
@pytest.mark.parametrize("task", [Augmented, WithMean])
def test_attributes_of_task_and_model_are_as_without_it(tmp_path: Path, task: Any, name: str) -> None:
    plain, _, _ = run(tmp_path / "plain", task(), "none")
    beside, _, _ = run(tmp_path / "beside", task(), name)
    assert equal(plain, beside)


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("name", "task", "keys"),
    [("perfedavg", WithMean, {}), ("none", Normalized, {"batch_norm": "recomputed"})],
)
def test_how_often_a_run_evaluates_changes_nothing(tmp_path: Path, name: str, task: Any, keys: Any) -> None:
    often, own, _ = run(tmp_path / "often", task(), name, **keys)
    once, other, _ = run(tmp_path / "once", task(), name, every=3, **keys)
    assert equal(often, once)
    assert equal(own, other)


def test_statistics_found_anew_after_dropout_are_those_that_were_evaluated(tmp_path: Path) -> None:
    _, own, metrics = run(tmp_path, Normalized(), "none", batch_norm="recomputed")
    model, batch = Normalized().model(), Normalized().data(0, 1).test.tensors  # type: ignore[union-attr]
    model.load_state_dict({name: torch.from_numpy(values) for name, values in own.items()})
    with torch.no_grad():
        loss = Normalized().loss(model.eval(), batch)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_gradients_of_a_difference_drop_the_same_units(tmp_path: Path) -> None:
    """Divided by `personal.difference`, two gradients of other units were a thousand times the Hessian."""
    keys = {"variant": "hessian-free", "inner_lr": 0.2}
    _, own, _ = run(tmp_path, WithDropout(), "perfedavg", rounds=6, method=keys)
    assert max(np.abs(values).max() for values in own.values()) < 3


def test_a_personal_model_that_diverges_names_its_own_key(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"lower personal.lr = 1e\+30 or set train.clip_norm"):
        run(tmp_path, Points(), "ditto", method={"lr": 1e30})


def test_inner_steps_that_diverge_are_told_with_their_rate(tmp_path: Path) -> None:
    named = r"lower train.lr = [\d.]+ or personal.inner_lr = 1e\+30 or set train.clip_norm"
    with pytest.raises(DivergedError, match=named):
        run(tmp_path, Points(), "pfedme", method={"inner_lr": 1e30})


def test_statistics_that_training_holds_are_not_found_anew(tmp_path: Path) -> None:
    _, own, _ = run(tmp_path, Held(), "none", batch_norm="recomputed")
    assert (own["layers.0.running_mean"] == 3).all()
    assert (own["layers.1.running_mean"] != 0).all()


@pytest.mark.parametrize(
    "keys", [{"drop_last": True}, {"full_batch": True, "steps": 2, "batch_size": 40}], ids=str
)
def test_statistics_are_found_in_batches_that_training_has(tmp_path: Path, keys: Any) -> None:
    _, own, _ = run(tmp_path, Odd(), "none", batch_norm="recomputed", **keys)
    x = Odd().data(0, 1).train.tensors[0]  # type: ignore[attr-defined]
    seen = x if "full_batch" in keys else x[:40]
    np.testing.assert_allclose(own["0.running_mean"], seen.mean(0), rtol=1e-5, atol=1e-5)
