"""Trap weights: exactly the examples that are alone in a unit or a bin are recovered, and none from noise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from silofl.privacy_attacks.inversion.base import Public, gradient_of
from silofl.privacy_attacks.traps.brightness_bins import BrightnessBins
from silofl.privacy_attacks.traps.registry import TRAPS
from silofl.privacy_attacks.traps.seldom_active import SeldomActive
from silofl.tasks.models import cnn, mlp

SHAPE, CLASSES, UNITS, COUNT = (1, 6, 6), 3, 24, 12
KINDS: dict[str, Any] = {"seldom_active": SeldomActive(active=0.08), "brightness_bins": BrightnessBins()}


def planted(trap: Any) -> tuple[Public, Any, Any]:
    """A model with a trap, and examples; those that the trap is made by are others."""
    rng = np.random.default_rng(4)
    x, like = rng.random((COUNT, 36)) ** 2, rng.random((200, 36)) ** 2
    torch.manual_seed(0)
    module = mlp(36, [UNITS], CLASSES).double()
    public = Public(module, SHAPE, CLASSES, examples=COUNT)
    for name, values in trap.weights(public, like, torch.Generator().manual_seed(0)).items():
        module.get_parameter(name).data.copy_(values)
    return public, x, rng.integers(0, CLASSES, COUNT)


def alone(name: str, public: Public, x: Any) -> set[int]:
    """Which examples are alone, by what the paper says, in NumPy."""
    weight, bias = (one.detach().numpy() for one in list(public.module.parameters())[:2])
    if name == "seldom_active":
        groups = [np.flatnonzero(active) for active in (x @ weight.T + bias > 0).T]
    else:
        edges = [*np.sort(-bias), np.inf]
        brightness = x.mean(axis=1)
        groups = [np.flatnonzero((low < brightness) & (brightness <= high)) for low, high in pairwise(edges)]
    return {int(group[0]) for group in groups if len(group) == 1}


def recovered(found: Any, x: Any, error: float) -> set[int]:
    flat = found.examples.reshape(-1, x.shape[1])
    return {k for k, one in enumerate(x) if len(flat) and np.abs(flat - one).max(axis=1).min() < error}


def test_every_trap_is_tested() -> None:
    assert KINDS.keys() == TRAPS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_examples_that_are_alone_are_recovered_and_noise_hides_them(name: str) -> None:
    trap = KINDS[name]
    public, x, y = planted(trap)
    shaped = torch.from_numpy(x.reshape(-1, *SHAPE))
    found = {k: v.detach() for k, v in gradient_of(public.module, shaped, torch.from_numpy(y)).items()}
    expected = alone(name, public, x)
    assert len(expected) >= COUNT // 4
    assert recovered(trap.examples(found, public), x, 1e-6) == expected

    rng = torch.Generator().manual_seed(1)
    length = torch.cat([one.flatten() for one in found.values()]).norm()
    noise = {k: torch.randn(v.shape, generator=rng, dtype=v.dtype) for k, v in found.items()}
    scale = length / torch.cat([one.flatten() for one in noise.values()]).norm()
    noisy = {k: v + scale * noise[k] for k, v in found.items()}
    assert recovered(trap.examples(noisy, public), x, 0.2) == set()
    # An attacker who knows of the noise leaves no image out for it, and still recovers none.
    shown = trap.examples(noisy, replace(public, noise=float(scale)))
    assert len(shown.examples) > max(UNITS // 2, len(trap.examples(noisy, public).examples))
    assert 0 <= shown.examples.min() <= shown.examples.max() <= 1
    assert recovered(shown, x, 0.2) == set()


@pytest.mark.parametrize("name", KINDS)
def test_a_model_without_a_place_for_a_trap_is_refused(name: str) -> None:
    like, rng = np.ones((4, 64)), torch.Generator()
    with pytest.raises(ValueError, match="the model"):
        KINDS[name].weights(Public(cnn(1, 8, 8, CLASSES), (1, 8, 8), CLASSES), like, rng)
    if name == "brightness_bins":
        smooth = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, CLASSES))
        with pytest.raises(ValueError, match="two linear layers and ReLU"):
            KINDS[name].weights(Public(smooth, (1, 8, 8), CLASSES), like, rng)
