"""A silo's half of a round: what it sends, what it keeps, and when."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.errors import ConfigError, DataError, TrainingError, UserCodeError
from silofl.federation.local_work import Fitted, RoundStart
from silofl.federation.silo import Silo
from silofl.strategies.base import LocalRound, Strategy
from silofl.strategies.fedavg import FedAvg
from silofl.strategies.fedprox import FedProx
from silofl.strategies.fedsgd import FedSGD
from silofl.tasks.base import SiloData
from silofl.types import Contribution


class Normalized:
    """A body with statistics and a head; no randomness but the model's."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))

    def data(self, silo: int, silos: int) -> SiloData:
        rng = np.random.default_rng(silo)
        x = torch.from_numpy(rng.standard_normal((30, 6)))
        data = TensorDataset(x, torch.from_numpy(rng.integers(0, 2, 30)))
        return SiloData(data, data)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


class Told(Normalized):
    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Any]:
        return {"name": "Smith"}


class Raising(Normalized):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        raise ValueError("Smith")


@pytest.mark.parametrize("task", [Told(), Raising()], ids=lambda task: type(task).__name__)
def test_a_task_s_own_mistakes_show_before_an_optimizer_is_made(
    monkeypatch: pytest.MonkeyPatch, task: Normalized
) -> None:
    """The first optimizer of a process has torch load its compiler, which takes seconds."""
    monkeypatch.setattr(torch.optim.Optimizer, "__init__", lambda *given: pytest.fail("an optimizer is made"))
    with pytest.raises((DataError, UserCodeError)) as caught:
        Silo(configuration.parse({}), task, 0, 1, "cpu")
    assert "Smith" not in str(caught.value)


class Personal(Normalized):
    private = ("2.*",)


@final
@dataclass(frozen=True)
class Counting(Strategy):
    """Keeps how often it took part, pulls towards a second shared vector, and notes what it saw."""

    shared = ("model", "anchor")

    def local_init(self, size: int, dtype: Any) -> Any:
        return {"rounds": np.zeros(size, dtype)}

    def correct(self, gradient: Any, values: Any, local: LocalRound) -> None:
        assert gradient.dtype == values.dtype == local.shared["anchor"].dtype
        assert local.state["rounds"].dtype == gradient.dtype
        gradient += 0.5 * (values - local.shared["anchor"])

    def contribute(self, trained: Any, steps: int, loss: float, local: LocalRound) -> Any:
        assert (local.lr, local.samples, steps) == (0.05, 30, 3)
        assert local.resync == bool(local.state["rounds"][0])
        change = trained - local.shared["model"]
        return Contribution({"update": change}, {"steps": steps}), {"rounds": local.state["rounds"] + 1}


def silo(task: Any = None, algorithm: Any = None, **sections: Any) -> Silo:
    train = {"full_batch": True, "steps": 3, "dtype": "float64"} | sections.pop("train", {})
    config = configuration.parse({"train": train, **sections})
    return Silo(config, task or Normalized(), 1, 3, "cpu", algorithm)


def fit(one: Silo, strategy: Strategy, number: int = 1, **more: Any) -> Fitted:
    """A round from a global model that is always the same."""
    count = one.model.trainable
    whole = np.random.default_rng(0).uniform(0.1, 0.5, one.model.size).astype(one.model.wire_dtype)
    shared = {"model": whole[:count]} | {name: np.ones(count, whole.dtype) for name in strategy.shared[1:]}
    return one.fit(RoundStart(shared, whole[count:], number, strategy, **more))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("strategy", [FedAvg(), FedSGD()], ids=["fedavg", "fedsgd"])
def test_an_update_is_the_change_of_parameters_and_of_buffers(dtype: str, strategy: Strategy) -> None:
    one, other = (silo(train={"dtype": dtype}) for _ in range(2))
    whole, count = one.initial(), one.model.trainable
    kept = whole.copy()
    fitted = one.fit(RoundStart({"model": whole[:count]}, whole[count:], 2, strategy))
    assert whole.tobytes() == kept.tobytes()
    assert set(fitted.contribution.vectors) == {"update", "buffers"}
    update, change = (fitted.contribution.vectors[name] for name in ("update", "buffers"))
    assert update.dtype == change.dtype == one.model.wire_dtype
    assert (update.shape, change.shape) == ((count,), (10,))

    other.model.load(whole)
    result: Any
    if strategy.local == "gradient":
        expected, result = other.trainer.gradient(2)
    else:
        result = other.trainer.fit(2)
        expected = other.model.parameters.double() - torch.from_numpy(whole[:count]).double()
    np.testing.assert_allclose(update, expected.double().numpy(), rtol=0, atol=1e-6)
    after = other.model.vector[count:].double().numpy()
    np.testing.assert_allclose(change, after - whole[count:], rtol=0, atol=1e-6)
    assert (fitted.loss, fitted.steps) == (result.loss, result.steps)
    assert np.abs(update).max() > 1e-3
    assert np.abs(change).max() > 1e-3


def test_an_update_lies_in_the_models_own_memory_where_it_can() -> None:
    for dtype, there in (("float32", True), ("float64", True), ("bfloat16", False)):
        one = silo(train={"dtype": dtype})
        update = fit(one, FedAvg()).contribution.vectors["update"]
        assert (update.ctypes.data == one.model.vector.data_ptr()) == there


def test_a_strategys_state_changes_when_the_round_is_certain_and_not_before() -> None:
    strategy = Counting()
    one = silo(algorithm=strategy)
    first = fit(one, strategy)
    again = fit(one, strategy)
    assert first.contribution.vectors["update"].tobytes() == again.contribution.vectors["update"].tobytes()
    assert one.strategy_state["rounds"].max() == 0
    one.accept(again)
    assert again.state["rounds"].min() == one.strategy_state["rounds"].min() == 1
    assert again.contribution.scalars == {"steps": 3}
    fit(one, strategy, 2, resync=True)


def test_a_correction_is_given_all_shared_vectors_and_the_silos_state() -> None:
    strategy = Counting()
    corrected = fit(silo(algorithm=strategy), strategy).contribution.vectors["update"]
    plain = fit(silo(), FedAvg()).contribution.vectors["update"]
    assert not np.allclose(corrected, plain)
    assert fit(silo(algorithm=strategy, train={"dtype": "bfloat16"}), strategy).steps == 3


def test_state_holds_all_that_is_the_silos_own_and_is_taken_up_again() -> None:
    strategy = Counting()
    one, other = (silo(Personal(), strategy, train={"momentum": 0.9, "keep_optimizer": True}) for _ in "ab")
    one.accept(fit(one, strategy))
    state = copy.deepcopy(one.state())
    assert set(state) == {"model", "optimizer", "strategy", "personal", "attributes"}
    other.restore(state)
    ends = [fit(each, strategy, 2, resync=True) for each in (one, other)]
    assert (
        ends[0].contribution.vectors["update"].tobytes() == ends[1].contribution.vectors["update"].tobytes()
    )
    assert ends[0].state["rounds"].tobytes() == ends[1].state["rounds"].tobytes()
    for name, values in one.state()["model"]["private"].items():
        np.testing.assert_array_equal(values, other.state()["model"]["private"][name])


def test_private_parameters_are_evaluated_and_stay() -> None:
    one = silo(Personal())
    whole = one.initial()
    before = one.evaluate(whole)
    fit(one, FedAvg())
    after = one.evaluate(whole)
    assert after.count == 30
    assert after.own["loss"] < before.own["loss"]
    assert len(whole) == 6 * 5 + 5 + 10 + 10
    assert not [name for name in one.export(whole) if name.startswith("2.")]


def test_values_that_are_not_finite_are_left_to_the_sum_and_a_sentence_is_there() -> None:
    class Overflowing(Normalized):
        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            return super().loss(model, batch) + (0.0 * model[0].weight.sum()) ** 0.5

    fitted = fit(silo(Overflowing(), train={"steps": 1}), FedAvg())
    assert not np.isfinite(fitted.contribution.vectors["update"]).all()
    error = silo().diverged(7)
    assert isinstance(error, TrainingError)
    assert "silo 1, round 7: training diverged" in str(error)


class Rewriting(Normalized):
    """Its forward pass does something to the model, which is told when it is in training."""

    def __init__(self, change: Any) -> None:
        self._change = change

    def model(self) -> nn.Module:
        model = super().model()
        model.register_buffer("cache", torch.zeros(2), persistent=False)
        model.fixed = nn.Parameter(torch.zeros(2), requires_grad=False)
        return model

    def loss(self, model: Any, batch: Any) -> Tensor:
        if model.training:
            with torch.no_grad():
                self._change(model)
        return nn.functional.cross_entropy(model[2](model[1](model[0](batch[0]))), batch[1])


def shrink(model: Any) -> None:
    model[0].weight.mul_(0.5)


def shrink_elsewhere(model: Any) -> None:
    model[0].weight.data = model[0].weight.data * 0.5


def write_fixed(model: Any) -> None:
    model.fixed.data.add_(1)


def write_cache(model: Any) -> None:
    model.cache = model.cache + 1


@pytest.mark.parametrize("strategy", [FedAvg(), FedSGD(), FedProx(mu=0.5)], ids=lambda s: type(s).__name__)
def test_weights_put_elsewhere_are_the_same_update_as_those_written_in_place(strategy: Strategy) -> None:
    updates = [
        fit(silo(Rewriting(change), strategy), strategy).contribution.vectors["update"]
        for change in (shrink, shrink_elsewhere)
    ]
    assert np.array_equal(*updates)


@pytest.mark.parametrize("strategy", [FedAvg(), FedSGD()], ids=lambda s: type(s).__name__)
def test_a_change_of_what_is_not_shared_is_refused_with_silo_and_round(strategy: Strategy) -> None:
    one = silo(Rewriting(write_fixed), strategy)
    with pytest.raises(
        TrainingError, match="silo 1, round 4: local training changed parameter fixed,"
    ) as error:
        fit(one, strategy, 4)
    assert error.value.rank == 1


def test_a_layer_that_is_frozen_between_rounds_only_is_trained_in_them() -> None:
    one, other = silo(Rewriting(lambda model: model[0].requires_grad_(True))), silo(Rewriting(lambda _: None))
    one.model.module.get_submodule("0").requires_grad_(False)
    updates = [fit(each, FedAvg()).contribution.vectors["update"] for each in (one, other)]
    assert np.array_equal(*updates)


def test_what_has_no_noise_may_not_change_where_silos_are_protected() -> None:
    assert fit(silo(Rewriting(write_cache)), FedAvg()).steps == 3
    private = silo(Rewriting(write_cache), privacy={"unit": "silo", "noise_multiplier": 1.0})
    with pytest.raises(
        TrainingError, match="silo 1, round 1: local training changed buffer cache, which has no"
    ):
        fit(private, FedAvg())


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"strategy": {"name": "fedsgd"}}, 'strategy.name = "fedsgd" takes no local step'),
        ({"privacy": {"unit": "silo", "noise_multiplier": 1.0}}, 'privacy.unit = "silo"'),
    ],
)
def test_private_parameters_are_refused_where_they_would_not_learn_or_would_tell(
    sections: dict[str, Any], told: str
) -> None:
    assert silo(**copy.deepcopy(sections)).samples == 30
    with pytest.raises(ConfigError, match=told):
        silo(Personal(), **sections)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    class Wrong(Normalized):
        private = ("head.*",)

    with pytest.raises(
        DataError, match=r"'head\.\*', of the task or of personal.layers, matches no parameter"
    ):
        silo(Wrong())
