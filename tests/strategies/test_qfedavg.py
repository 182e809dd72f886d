"""q-FedAvg against plain lines, at the ends of q, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from silofl import config as configuration
from silofl.errors import ConfigError, TrainingError
from silofl.federation.local_work import RoundStart
from silofl.federation.silo import Silo
from silofl.strategies.base import LocalRound
from silofl.strategies.fedavg import FedAvg
from silofl.strategies.qfedavg import QFedAvg
from silofl.strategies.scaffold import Scaffold
from tests.strategies import naive
from tests.strategies.loop import LR, STEPS, Loop
from tests.strategies.naive import ALL, SIZE, SOME, silos
from tests.strategies.test_fedprox import Network


@pytest.mark.covering(2)
@pytest.mark.parametrize("present", [ALL, SOME], ids=["all", "some"])
@pytest.mark.parametrize("bounds", [(0, SIZE), (0, 2, 2, 5, SIZE)], ids=["whole", "sliced"])
@pytest.mark.parametrize("q", [0.0, 0.001, 1.0, 5.0])
@pytest.mark.parametrize("lipschitz", [None, 0.7])
def test_qfedavg(present: Any, bounds: Any, q: float, lipschitz: float | None) -> None:
    model = Loop(QFedAvg(q, lipschitz), silos(), bounds).run(present)
    expected = naive.qfedavg(silos(), present, LR, STEPS, q, lipschitz or 1 / LR)
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-12)


def test_with_q_0_silos_count_equally_and_it_is_fedavg() -> None:
    x = np.zeros(SIZE)
    for here in SOME:
        x = np.mean([naive.descend(silos()[k], x, LR, STEPS) for k in here], axis=0)
    np.testing.assert_allclose(Loop(QFedAvg(0.0), silos()).run(SOME), x, rtol=0, atol=1e-12)


@pytest.mark.long
def test_the_worst_silo_is_served_better_than_with_q_0() -> None:
    worst = [
        max(naive.loss(one, Loop(QFedAvg(q), silos()).run(ALL * 20)) for one in silos()) for q in (0.0, 3.0)
    ]
    assert worst[1] < 0.97 * worst[0]


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 5.0])
def test_a_loss_of_zero_gives_finite_numbers(q: float) -> None:
    local = LocalRound({"model": np.zeros(3)}, {}, lr=0.1, samples=7, start_loss=0.0)
    sent, _ = QFedAvg(q).contribute(np.ones(3), 1, 0.0, local)
    assert all(math.isfinite(one) for one in sent.scalars.values())
    assert sent.scalars["normalizer"] > 0


def test_a_negative_loss_is_refused() -> None:
    local = LocalRound({"model": np.zeros(3)}, {}, lr=0.1, samples=7, start_loss=-0.1)
    with pytest.raises(TrainingError, match=r"silo's is negative: let the task's loss be 0 or more"):
        QFedAvg().contribute(np.ones(3), 1, 0.0, local)


@pytest.mark.parametrize(
    ("strategy", "privacy", "told"),
    [
        ({"name": "qfedavg"}, {"unit": "silo"}, "tells normalizer and share of each silo's training"),
        ({"name": "qfedavg"}, {"unit": "example", "place": "local"}, "tells normalizer and share"),
        (
            {"name": "scaffold", "option": "I"},
            {"unit": "example", "place": "local"},
            "works out the gradient of all samples at the shared model, which has no noise",
        ),
    ],
)
def test_what_has_no_noise_is_refused_with_privacy(
    strategy: dict[str, Any], privacy: dict[str, Any], told: str
) -> None:
    more = {"noise_multiplier": 1.0, "clip_norm": 1.0}
    more |= {"sample_rate": 0.1} if privacy["unit"] == "example" else {}
    with pytest.raises(ConfigError) as caught:
        configuration.parse({"strategy": strategy, "privacy": privacy | more})
    assert told in str(caught.value)


@pytest.mark.parametrize("strategy", [QFedAvg(0.0), Scaffold(option="I")])
def test_what_is_worked_out_before_training_leaves_no_trace(strategy: Any) -> None:
    """Of dropout, BatchNorm's statistics and its counter: what is trained is FedAvg's, bit for bit."""

    def trained(strategy: Any) -> tuple[dict[str, Any], Any]:
        silo = Silo(
            configuration.parse({"train": {"epochs": 2, "batch_size": 5}}), Network(), 1, 3, "cpu", strategy
        )
        whole, count = silo.initial(), silo.model.trainable
        shared = {
            name: whole[:count] if name == "model" else np.zeros_like(whole[:count])
            for name in strategy.shared
        }
        fitted = silo.fit(RoundStart(shared, whole[count:], 3, strategy))
        vectors = {name: fitted.contribution.vectors[name].tobytes() for name in ("update", "buffers")}
        return vectors, silo.state()["model"]["counters"]

    assert trained(strategy) == trained(FedAvg())


def test_the_loss_and_gradient_are_those_of_all_samples_in_training_mode() -> None:
    """Batches of 5 of 37 samples are trained on, and 8 pieces looked at."""
    task, config = Network(), configuration.parse({"train": {"batch_size": 5, "dtype": "float64"}})
    silo = Silo(config, task, 1, 3, "cpu")
    module = silo.model.module
    module[3].p = 0.0  # no dropout, so that nothing is random
    loss, gradient = silo.trainer.measure(1, gradient=True)
    alone, nothing = silo.trainer.measure(1, gradient=False)
    assert nothing is None
    x, y = (torch.as_tensor(one) for one in task.data(1, 3).train.tensors)  # type: ignore[attr-defined]
    module.train()
    module.zero_grad()
    expected = sum(
        task.loss(module, (x[a : a + 5].double(), y[a : a + 5])) * len(x[a : a + 5]) / 37
        for a in range(0, 37, 5)
    )
    expected.backward()
    found = torch.cat([p.grad.ravel() for p in module.parameters()])
    assert loss == alone == pytest.approx(float(expected.detach()), abs=1e-12)
    np.testing.assert_allclose(gradient.numpy(), found.numpy(), rtol=0, atol=1e-12)
