"""FedAvg and FedSGD against plain lines, and their bits against what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl.strategies.fedavg import FedAvg
from silofl.strategies.fedsgd import FedSGD
from silofl.types import Total
from tests.strategies import naive
from tests.strategies.loop import LR, STEPS, Loop
from tests.strategies.naive import ALL, SIZE, SOME, silos

PRESENT = pytest.mark.parametrize("present", [ALL, SOME], ids=["all", "some"])
BOUNDS = pytest.mark.parametrize("bounds", [(0, SIZE), (0, 2, 2, 5, SIZE)], ids=["whole", "sliced"])


@pytest.mark.covering(1)
@PRESENT
@BOUNDS
@pytest.mark.parametrize(("lr", "momentum"), [(1.0, 0.0), (0.7, 0.0), (1.0, 0.5), (0.6, 0.9)])
def test_fedavg(present: Any, bounds: Any, lr: float, momentum: float) -> None:
    model = Loop(FedAvg(lr, momentum), silos(), bounds).run(present)
    expected = naive.fedavg(silos(), present, LR, STEPS, server_lr=lr, momentum=momentum)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-12)


@PRESENT
@BOUNDS
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_fedsgd(present: Any, bounds: Any, momentum: float) -> None:
    model = Loop(FedSGD(0.3, momentum), silos(), bounds).run(present)
    expected = naive.fedsgd(silos(), present, 0.3, momentum)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1], ids=["fedavg", "fedsgd"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("lr", [1.0, 0.7])
def test_the_servers_arithmetic_is_in_the_type_of_the_model(
    kind: Any, sign: int, momentum: float, lr: float
) -> None:
    """The factors are rounded first, which another order of operations would show in the last bits."""
    strategy = FedAvg(lr, momentum) if sign == 1 else FedSGD(lr, momentum)
    rng = np.random.default_rng(0)
    model = rng.standard_normal(301).astype(kind)
    expected, velocity = model.copy(), np.zeros(301, kind)
    state = strategy.init(301, np.dtype(kind))
    for _ in range(3):
        mean = rng.standard_normal(301).astype(kind)
        state = strategy.step(state, {"model": model}, Total({"update": mean}, {}, 3, 3))
        velocity = velocity * kind(momentum) + mean if momentum else mean
        change = velocity * kind(lr)
        expected = expected + change if sign == 1 else expected - change
    assert model.tobytes() == expected.tobytes()
    assert model.dtype == kind
