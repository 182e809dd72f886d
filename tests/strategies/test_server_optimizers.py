"""Strategies that differ in the server's step: against plain lines, and against published numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl.strategies.diloco import DiLoCo
from silofl.strategies.fedadagrad import FedAdagrad
from silofl.strategies.fedadam import FedAdam
from silofl.strategies.fedavgm import FedAvgM
from silofl.strategies.fedexp import FedExP
from silofl.strategies.fedyogi import FedYogi
from silofl.types import Total
from tests.strategies import naive
from tests.strategies.loop import LR, STEPS, Loop
from tests.strategies.naive import ALL, SIZE, SOME, silos

PRESENT = pytest.mark.parametrize("present", [ALL, SOME], ids=["all", "some"])
BOUNDS = pytest.mark.parametrize("bounds", [(0, SIZE), (0, 2, 2, 5, SIZE)], ids=["whole", "sliced"])


def compare(model: Any, expected: Any) -> None:
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-10)


@PRESENT
@BOUNDS
@pytest.mark.parametrize(("lr", "momentum"), [(1.0, 0.9), (0.5, 0.6)])
def test_fedavgm(present: Any, bounds: Any, lr: float, momentum: float) -> None:
    expected = naive.fedavg(silos(), present, LR, STEPS, server_lr=lr, momentum=momentum)
    compare(Loop(FedAvgM(lr, momentum), silos(), bounds).run(present), expected)


def test_fedavgm_gives_the_numbers_of_flower_s_own_test() -> None:
    """Weighted by 1 and 2 samples, from zero: the mean, as the first step has no momentum yet."""
    one, two = np.array([1.0, 2, 3, 4, 5, 6]), np.array([29.0, 23, 19, 17, 13, 11])
    model, strategy = np.zeros(6), FedAvgM()
    total = Total({"update": (one + 2 * two) / 3}, {}, 2, 2)
    strategy.step(strategy.init(6, np.dtype(np.float64)), {"model": model}, total)
    np.testing.assert_allclose(model * 3, [59, 48, 41, 38, 31, 28], rtol=1e-12)


@PRESENT
@BOUNDS
@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (0.5, 0.0)])
def test_diloco(present: Any, bounds: Any, lr: float, momentum: float) -> None:
    expected = naive.diloco(silos(), present, LR, STEPS, lr, momentum)
    compare(Loop(DiLoCo(lr, momentum), silos(), bounds).run(present), expected)


@pytest.mark.covering(2)
@PRESENT
@BOUNDS
@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("initial", [0.0, 0.2])
@pytest.mark.parametrize("kind", [FedAdagrad, FedAdam, FedYogi])
def test_adaptive(present: Any, bounds: Any, beta1: float, initial: float, kind: Any) -> None:
    keys: dict[str, Any] = {"beta1": beta1, "tau": 0.1, "initial": initial}
    more = {} if kind is FedAdagrad else {"beta2": 0.95}
    model = Loop(kind(lr=0.2, **keys, **more), silos(), bounds).run(present)
    name = kind.__name__.lower()
    expected = naive.adaptive(silos(), present, LR, STEPS, name, eta=0.2, beta2=0.95, **keys)
    compare(model, expected)


def test_fedadagrad_gives_the_number_of_flower_s_own_test() -> None:
    """From 0.1 with silos at 0.2 and 1.0: the mean change is 0.5, and so is tau."""
    model, strategy = np.array([0.1]), FedAdagrad(lr=0.1, tau=0.5)
    total = Total({"update": np.array([0.5])}, {}, 2, 2)
    strategy.step(strategy.init(1, np.dtype(np.float64)), {"model": model}, total)
    np.testing.assert_allclose(model, [0.15], rtol=1e-12)


@PRESENT
@BOUNDS
@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
def test_fedexp(present: Any, bounds: Any, epsilon: float) -> None:
    expected, rates = naive.fedexp(silos(), present, LR, STEPS, epsilon)
    assert max(rates) > 1.01, "some rate is not one"
    compare(Loop(FedExP(epsilon), silos(), bounds).run(present), expected)


def test_fedexp_takes_no_rate_from_silos_that_changed_nothing() -> None:
    model, strategy = np.ones(3), FedExP(0.0)
    total = Total({"update": np.zeros(3)}, {"square": 0.0, "share": 0.1}, 2, 2, over_slices=np.zeros(1))
    strategy.step({}, {"model": model}, total)
    assert model.tolist() == [1, 1, 1]
