"""FedDyn against plain lines, and after the return of a silo with older state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl.strategies.feddyn import FedDyn
from tests.strategies import naive
from tests.strategies.loop import LR, STEPS, Loop
from tests.strategies.naive import ALL, SIZE, SOME, silos


@pytest.mark.parametrize("present", [ALL, SOME], ids=["all", "some"])
@pytest.mark.parametrize("bounds", [(0, SIZE), (0, 2, 2, 5, SIZE)], ids=["whole", "sliced"])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_feddyn(present: Any, bounds: Any, alpha: float) -> None:
    loop = Loop(FedDyn(alpha), silos(), bounds)
    model = loop.run(present)
    expected, h = naive.feddyn(silos(), present, LR, STEPS, alpha)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.concatenate([one["gradient"] for one in loop.server]), h, rtol=0, atol=1e-9)


@pytest.mark.parametrize("resync", [False, True])
def test_an_older_state_biases_h_until_all_resynchronize(resync: bool) -> None:
    loop = Loop(FedDyn(), silos())
    loop.run(ALL[:3])
    older = loop.own[2]
    loop.run(ALL[:1])
    loop.own[2] = older  # it lost a round
    loop.round((0, 1, 2, 3), resync=resync)
    mean = np.mean([own["gradient"] for own in loop.own], axis=0)
    off = np.abs(np.concatenate([one["gradient"] for one in loop.server]) - mean).max()
    assert (off < 1e-12) == resync
