"""What clients would not learn alike together is found out before the first round, and trains alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl.federation.silo import Silo
from silofl.tasks.base import SiloData
from silofl.training.clients import stacked_clients
from silofl.training.clients.stacked_trial import KEPT, OTHERS
from tests.training.test_local_clients import FEATURES, EachLine, clients_in, fit, silo_of, update

TRAIN = {"dtype": "float64", "batch_size": 8, "epochs": 2, "lr": 0.01}
SIZES = (4, 4, 6, 8, 4, 6)


class Unequal(EachLine):
    """Clients of unequal sizes, the first two of one."""

    def data(self, silo: int, silos: int) -> SiloData:
        rng, whose = np.random.default_rng(silo), np.repeat(np.arange(len(SIZES)), SIZES)
        x = torch.from_numpy(rng.standard_normal((len(whose), FEATURES)))
        y = torch.from_numpy(rng.integers(0, 4, len(whose)))
        return SiloData(TensorDataset(x, y), None, whose)


class BatchNormed(Unequal):
    def hidden(self) -> nn.Module:
        return nn.BatchNorm1d(FEATURES, track_running_stats=False)


class LastUnequal(BatchNormed):
    """Clients whose batches are of one size but for the last, after the steps that are tried."""

    def data(self, silo: int, silos: int) -> SiloData:
        found = Unequal.data(self, silo, silos)
        x, y = (torch.cat([one, one, one]) for one in found.train.tensors)  # type: ignore[attr-defined]
        return SiloData(TensorDataset(x, y), None, np.repeat(np.arange(3), (31, 31, 34)))


class Contrastive(Unequal):
    """A sample's loss is against all others of its batch."""

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        found = model(batch[0])
        return nn.functional.cross_entropy(found @ found.mT, torch.arange(len(found)), reduction="none")

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self.losses(model, batch).mean()


class Frequent(Unequal):
    """Gradients of an embedding by how often each row is in the batch."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(4, 2, scale_grad_by_freq=True), nn.Linear(2, 1))

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[1]).squeeze(-1) - batch[0][:, 0]) ** 2

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self.losses(model, batch).mean()


class Penalized(Unequal):
    """From zeros, a penalty on weights moves nothing in the first step."""

    def model(self) -> nn.Module:
        made = super().model()
        nn.init.zeros_(made[1].weight)  # type: ignore[index]
        return made

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, batch) + sum((one**2).sum() for one in model.parameters())


class Weighted(Unequal):
    """Clients have one class each, of which the weight is none; samples of several have."""

    def data(self, silo: int, silos: int) -> SiloData:
        found = super().data(silo, silos)
        found.train.tensors[1][:] = torch.from_numpy(np.asarray(found.owners) % 4)  # type: ignore[attr-defined]
        return found

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        weights = 1.0 + batch[1]
        return (self.losses(model, batch) * weights).sum() / weights.sum()


class Counting(Unequal):
    """The loss is another after five calls."""

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().losses(model, batch) * (1.0 if self.calls < 6 else 0.5)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self.losses(model, batch).mean()


class Hooked(Unequal):
    def model(self) -> nn.Module:
        made = super().model()
        made[1].weight.register_hook(lambda gradient: gradient.clamp(-1e6, 1e6))  # type: ignore[index, union-attr]
        return made


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Unequal, ""),
        (BatchNormed, OTHERS),
        (LastUnequal, OTHERS),
        (Contrastive, OTHERS),
        (Frequent, OTHERS),
        (Penalized, OTHERS),
        (Weighted, OTHERS),
        (Counting, OTHERS),
        (Hooked, "parameters have hooks"),
    ],
)
def test_tasks_that_learn_otherwise_together_train_alone(task: type[Unequal], why: str) -> None:
    silo = silo_of(task(), clients={"split": "owner"}, train=TRAIN)
    assert clients_in(silo).why_alone == why


class Averaging(Unequal):
    """A running mean of inputs, in an attribute of the task, or in a list."""

    def __init__(self, *, listed: bool) -> None:
        self.mean, self.seen, self._listed = None, [], listed

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self.losses(model, batch).mean()

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        mine: Any = batch[0].mean(0).detach()
        if self._listed:
            self.seen.append(mine)
            return super().losses(model, batch) + 0 * self.seen[-1].sum()
        self.mean = mine if self.mean is None else 0.9 * self.mean + 0.1 * mine
        return super().losses(model, (batch[0] - self.mean, batch[1]))


@pytest.mark.parametrize("listed", [False, True])
def test_what_vmap_leaves_in_a_task_is_taken_out(listed: bool) -> None:
    task = Averaging(listed=listed)
    silo = silo_of(task, clients={"split": "owner"}, train=TRAIN)
    assert clients_in(silo).why_alone in (KEPT, OTHERS, "torch.func.vmap refuses the task (RuntimeError)")
    assert task.mean is None
    assert all(one.sum().isfinite() for one in task.seen)
    assert np.isfinite(fit(silo).loss)


class Large(Unequal):
    """Of whose clients one has many records."""

    def data(self, silo: int, silos: int) -> SiloData:
        whose = np.repeat(np.arange(12), [2] * 5 + [40] + [2] * 6)
        x = torch.from_numpy(np.random.default_rng(0).standard_normal((len(whose), FEATURES)))
        return SiloData(TensorDataset(x, torch.arange(len(whose)) % 4), None, whose)


def test_samples_that_are_filled_up_are_bounded_as_models_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client's many records do not make all others' as many."""

    def silo() -> Silo:
        return silo_of(Large(), clients={"split": "owner"})

    whole, each = update(silo()), FEATURES + 1
    assert clients_in(silo()).stacked_values == (12 * FEATURES, 12 * 40 * each)
    monkeypatch.setattr(stacked_clients, "MOST_SAMPLE_VALUES", 30 * each)
    shapes: list[tuple[int, ...]] = []
    mean = stacked_clients._Batch.mean

    def noted(self: Any, losses: Tensor) -> Tensor:
        shapes.append(tuple(losses.shape))
        return mean(self, losses)

    bounded = silo()
    assert clients_in(bounded).stacked_values == (12 * FEATURES, 40 * each)
    monkeypatch.setattr(stacked_clients._Batch, "mean", noted)
    assert np.abs(update(bounded) - whole).max() < 1e-12
    assert set(shapes) == {(11, 2), (1, 40)}
