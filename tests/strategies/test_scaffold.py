"""SCAFFOLD against plain lines, after the return of a silo with older state, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl import config as configuration
from silofl.errors import ConfigError
from silofl.strategies.fedavg import FedAvg
from silofl.strategies.scaffold import Scaffold
from tests.strategies import naive
from tests.strategies.loop import LR, STEPS, Loop
from tests.strategies.naive import ALL, SIZE, SOME, silos


@pytest.mark.covering(2)
@pytest.mark.parametrize("present", [ALL, SOME], ids=["all", "some"])
@pytest.mark.parametrize("bounds", [(0, SIZE), (0, 2, 2, 5, SIZE)], ids=["whole", "sliced"])
@pytest.mark.parametrize("lr", [1.0, 0.6])
@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold(present: Any, bounds: Any, lr: float, option: Any) -> None:
    loop = Loop(Scaffold(lr, option), silos(), bounds)
    model = loop.run(present)
    expected, c, c_i = naive.scaffold(silos(), present, LR, STEPS, lr, option)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(loop.shared["control"], c, rtol=0, atol=1e-12)
    np.testing.assert_allclose([own["control"] for own in loop.own], c_i, rtol=0, atol=1e-12)
    assert np.abs(c).max() > 1e-3


def bias(loop: Loop) -> float:
    """How far c is from the mean of all c_i."""
    mean = np.mean([own["control"] for own in loop.own], axis=0)
    return float(np.abs(loop.shared["control"] - mean).max())


@pytest.mark.parametrize("resync", [False, True])
def test_an_older_state_biases_the_control_until_all_resynchronize(resync: bool) -> None:
    loop = Loop(Scaffold(), silos())
    loop.run(SOME)
    older = loop.own[1]
    loop.run(SOME)
    assert bias(loop) < 1e-12
    loop.own[1] = older
    loop.round(ALL[0], resync=resync)
    loop.run(SOME)
    assert (bias(loop) < 1e-12) == resync


@pytest.mark.long
def test_it_goes_to_the_optimum_of_all_silos_where_fedavg_drifts() -> None:
    data, rounds = silos(), ALL * 100
    reached, _, _ = naive.scaffold(data, rounds, LR, STEPS)
    np.testing.assert_allclose(Loop(Scaffold(), data).run(rounds), reached, rtol=0, atol=1e-9)
    drifted = Loop(FedAvg(), data).run(rounds)
    of_all = [np.mean([naive.gradient(one, x) for one in data], axis=0) for x in (reached, drifted)]
    assert np.abs(of_all[0]).max() < 1e-6
    assert np.abs(of_all[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"optimizer": "AdamW"}, "train.optimizer = 'AdamW'"),
        ({"momentum": 0.9}, "train.momentum = 0.9"),
        ({"options": {"momentum": 0.9}}, "train.options.momentum = 0.9"),
        ({"options": {"maximize": True}}, "train.options.maximize = True"),
        ({"precision": "float16"}, "train.precision = 'float16'"),
        ({"dtype": "bfloat16"}, "train.dtype = 'bfloat16'"),
    ],
)
def test_steps_that_are_no_plain_descent_are_refused(train: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.parse({"strategy": {"name": "scaffold"}, "train": train})
    assert told in str(caught.value)
    assert "set it to" in str(caught.value)


@pytest.mark.parametrize(
    "train",
    [
        {"momentum": 0.0, "weight_decay": 0.1, "clip_norm": 1.0, "keep_optimizer": True},
        {"options": {"foreach": True}, "precision": "bfloat16", "dtype": "float64"},
    ],
)
def test_gradients_of_any_kind_may_go_with_it(train: dict[str, Any]) -> None:
    assert configuration.parse({"strategy": {"name": "scaffold"}, "train": train}).strategy.name == "scaffold"
