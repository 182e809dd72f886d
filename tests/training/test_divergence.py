"""What is said of values that are not finite: where they were, and what helps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.errors import TrainingError
from silofl.federation.local_work import Fitted, RoundStart
from silofl.federation.silo import Silo
from silofl.strategies.fedavg import FedAvg
from silofl.strategies.fedsgd import FedSGD
from silofl.training.own_state import subtract


class Plain:
    """Two features, and a shift that is trained and begins at zero."""

    spoiled: float | None = None

    def model(self) -> nn.Module:
        model: Any = nn.Linear(2, 1)
        model.shift = nn.Parameter(torch.zeros(2))
        model.register_buffer("low", torch.tensor(float("inf")))
        return model

    def data(self, silo: int, silos: int) -> Any:
        x = torch.linspace(-1, 1, 16).view(8, 2).clone()
        if self.spoiled is not None:
            x[5, 1] = self.spoiled
        return TensorDataset(x, x.sum(1, keepdim=True)), None

    def loss(self, model: Any, batch: Any) -> Tensor:
        return (model(batch[0] + model.shift) - batch[1]).square().mean()

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


class Missing(Plain):
    spoiled = float("nan")


class Logarithm(Plain):
    def loss(self, model: Any, batch: Any) -> Tensor:
        return super().loss(model, batch) + (0 * model.weight.sum()).log()


class Root(Plain):
    """Its loss is finite and its gradient is not."""

    def loss(self, model: Any, batch: Any) -> Tensor:
        return super().loss(model, batch) + model.shift.norm() ** 0.5


class Steep(Plain):
    def loss(self, model: Any, batch: Any) -> Tensor:
        return super().loss(model, batch) ** 4 * 1e6


class Observed(Plain):
    def loss(self, model: Any, batch: Any) -> Tensor:
        model.low.copy_(torch.minimum(model.low, batch[0].min()))
        return super().loss(model, batch)


def fit(task: Any, strategy: Any = None, **train: Any) -> tuple[Silo, Fitted]:
    settings = {"batch_size": 4, "lr": 1.0, **train}
    one = Silo(configuration.parse({"train": settings}), task, 1, 3, "cpu")
    whole, count = one.initial(), one.model.trainable
    return one, one.fit(RoundStart({"model": whole[:count]}, whole[count:], 2, strategy or FedAvg()))


@pytest.mark.parametrize("strategy", [FedAvg(), FedSGD()], ids=["fedavg", "fedsgd"])
@pytest.mark.parametrize(
    ("task", "told"),
    [
        (Missing, "a batch has values that are not finite in entry 0; leave such samples out"),
        (
            Logarithm,
            r"a loss is not finite before the first step of the round \(buffer low has values that are not "
            r"finite\); look for a division by zero, or the logarithm",
        ),
    ],
)
def test_a_loss_that_is_not_finite_is_traced_to_its_cause(
    task: Callable[[], Any], told: str, strategy: Any
) -> None:
    with pytest.raises(TrainingError, match=f"silo 1, round 2: {told}") as error:
        fit(task(), strategy, epochs=None, steps=3)
    assert "train.lr" not in str(error.value)


def test_a_gradient_that_is_not_finite_is_named_and_no_shorter_step_advised() -> None:
    one, fitted = fit(Root(), epochs=None, steps=1)
    assert not np.isfinite(fitted.contribution.vectors["update"]).all()
    with pytest.raises(TrainingError) as error:
        fit(Root(), epochs=None, steps=3)
    for said in (str(error.value), str(one.diverged(2))):
        assert "round 2: the gradient of shift is not finite before the first step" in said
        assert "train.lr" not in said


def test_steps_that_are_too_long_are_told_from_the_rest() -> None:
    with pytest.raises(
        TrainingError, match=r"training diverged \(loss .* in step \d+\); lower train.lr = 1e\+20"
    ):
        fit(Steep(), lr=1e20, epochs=None, steps=9)
    with pytest.raises(TrainingError, match=r"lower train.lr = 1e\+20 or train.clip_norm = 1e\+20"):
        fit(Steep(), lr=1e20, clip_norm=1e20, epochs=None, steps=9)


def test_a_constant_that_is_not_finite_is_no_divergence() -> None:
    _, fitted = fit(Plain())
    assert fitted.contribution.vectors["buffers"].tolist() == [0.0]
    assert np.isfinite(fitted.contribution.vectors["update"]).all()


def test_a_buffer_that_becomes_finite_in_training_is_refused_by_name() -> None:
    with pytest.raises(TrainingError, match="silo 1, round 2: training changed buffer low from or to values"):
        fit(Observed())


def test_what_is_subtracted_from_itself_is_zero_whatever_it_is() -> None:
    before = np.array([1.0, np.inf, -np.inf, np.nan, np.inf, np.nan, 0.0])
    after = np.array([3.0, np.inf, -np.inf, np.nan, -np.inf, 1.0, np.nan])
    subtract(after, before)
    np.testing.assert_array_equal(after, [2.0, 0.0, 0.0, 0.0, -np.inf, np.nan, np.nan])
