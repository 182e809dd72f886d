"""A silo that dies and comes back goes on with its own model as its checkpoint has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from silofl import config as configuration
from tests.campaigns import mostly_long
from tests.federation.rejoining import federate
from tests.federation.test_rejoining import BACK, FAILS, OWN, VICTIM
from tests.personal.naive import mean
from tests.personal.test_federated import HEAD, InRows, flat
from tests.strategies.naive import ROUNDS, SIZE, SIZES, Array, descend, gradient, silos
from tests.strategies.test_federated import LR, STEPS, deaths

MU = 0.5


def ditto(k: int, w: Array, own: Array | None) -> tuple[Array, Array]:
    """What silo k shares, and its own model."""
    v = w if own is None else own
    for _ in range(STEPS):
        v = v - LR * (gradient(silos()[k], v) + MU * (v - w))
    return descend(silos()[k], w, LR, STEPS), v


def mrmtl(k: int, w: Array, own: Array | None) -> tuple[Array, Array]:
    _, v = ditto(k, w, own)
    return v, v


def fedper(k: int, w: Array, own: Array | None) -> tuple[Array, Array]:
    start = w.copy()
    start[HEAD] = 0 if own is None else own[HEAD]
    trained = descend(silos()[k], start, LR, STEPS)
    return trained, trained


def reference(step: Any) -> list[Array | None]:
    """Every silo's state after runs in which one is away for two rounds, and comes back with an older one."""
    w, own = np.zeros(SIZE), [None] * len(SIZES)
    kept = None
    for number in range(1, ROUNDS + 1):
        if number == BACK:
            own[VICTIM] = kept
        here = [k for k in range(len(SIZES)) if k != VICTIM or not FAILS <= number < BACK]
        shared = []
        for k in here:
            one, own[k] = step(k, w, own[k])
            shared.append(one)
        w = mean(silos(), here, shared)
        if number == OWN:
            kept = own[VICTIM]
    return own


@pytest.mark.covering(1)
@pytest.mark.usefixtures(deaths.__name__)
@pytest.mark.parametrize(
    ("personal", "step", "part"),
    mostly_long(
        [
            ({"name": "ditto", "mu": MU}, ditto, slice(None)),
            ({"name": "mrmtl", "mu": MU}, mrmtl, slice(None)),
            ({"name": "fedper", "layers": ["head.*"]}, fedper, HEAD),
        ],
        2,
    ),
    ids=["ditto", "mrmtl", "fedper"],
)
def test_a_silo_is_away_for_two_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, personal: dict[str, Any], step: Any, part: slice
) -> None:
    config = configuration.parse(
        {
            "run": {"name": "f", "dir": str(tmp_path), "display": "none", "rounds": ROUNDS},
            "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": "float64"},
            "personal": personal,
            "secure": {"protocol": "plain"},
            "failure": {"policy": "respawn", "inject": [f"kill silo {VICTIM} round {FAILS} at train"]},
        }
    )
    federate(monkeypatch, config, InRows, len(SIZES), VICTIM, after=BACK - 1)
    for silo, expected in enumerate(reference(step)):
        assert expected is not None
        found = flat(load_file(tmp_path / f"silo-000{silo}" / "personal.safetensors"))
        np.testing.assert_allclose(found[part], expected[part], rtol=0, atol=1e-9)
