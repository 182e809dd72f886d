"""FedNova against plain lines, with unequal steps and momentum, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl import config as configuration
from silofl.errors import ConfigError
from silofl.strategies.fedavg import FedAvg
from silofl.strategies.fednova import FedNova
from tests.strategies import naive
from tests.strategies.loop import LR, STEPS, Loop
from tests.strategies.naive import ALL, SIZE, SOME, silos


@pytest.mark.covering(2)
@pytest.mark.parametrize("present", [ALL, SOME], ids=["all", "some"])
@pytest.mark.parametrize("bounds", [(0, SIZE), (0, 2, 2, 5, SIZE)], ids=["whole", "sliced"])
@pytest.mark.parametrize("steps", [(1, 7, 3, 12), (5, 5, 5, 5)], ids=["unequal", "equal"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("lr", [1.0, 0.6])
def test_fednova(present: Any, bounds: Any, steps: Any, momentum: float, lr: float) -> None:
    model = Loop(FedNova(lr), silos(), bounds, steps=steps, momentum=momentum).run(present)
    expected = naive.fednova(silos(), present, LR, steps, momentum, lr)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-10)


def test_with_equal_steps_it_is_fedavg() -> None:
    model = Loop(FedNova(), silos()).run(ALL)
    np.testing.assert_allclose(model, Loop(FedAvg(), silos()).run(ALL), rtol=0, atol=1e-12)
    assert STEPS > 1


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"optimizer": "AdamW"}, r"train\.optimizer = 'AdamW' gives others: set it to 'SGD'"),
        ({"options": {"nesterov": True}, "momentum": 0.9}, r"train\.options\.nesterov = True"),
        (
            {"momentum": 0.9, "keep_optimizer": True},
            r"keep_optimizer = True gives others: set it to false",
        ),
    ],
)
def test_what_weights_gradients_otherwise_is_refused(train: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        configuration.parse({"strategy": {"name": "fednova"}, "train": train})
    configuration.parse({"strategy": {"name": "fednova"}, "train": {"momentum": 0.9, "weight_decay": 0.1}})
