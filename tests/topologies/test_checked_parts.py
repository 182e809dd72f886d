"""Distances that servers of slices tell: true ones are possible, and many false ones are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl.detection.update_scores import part_of
from silofl.topologies.checked_parts import possible


def table(rows: Any, usual: Any = None) -> Any:
    count = len(rows)
    return part_of(list(rows), range(count) if usual is None else usual).reshape(count + 2, count + 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_what_is_true_is_possible(dtype: Any, scale: float, count: int) -> None:
    rng = np.random.default_rng(count)
    rows = (rng.normal(size=(count, 40)) * scale).astype(dtype)
    assert possible(table(rows))
    assert possible(table(rows, range(1)))
    assert possible(table(rows * 0))
    assert possible(table(np.repeat(rows[:1], count, 0)))
    rows[-1] *= 1000
    assert possible(table(rows))
    rows[0, 3] = np.nan
    assert possible(table(rows))
    assert possible(table(rows[:, :0]))


@pytest.mark.parametrize("at", [(0, 1), (0, 5), (2, 2), (5, 6)], ids=str)
@pytest.mark.parametrize("told", [1e4, -1.0, np.nan, np.inf])
def test_what_no_updates_have_is_not(at: tuple[int, int], told: float) -> None:
    """Between two updates, of one from the median, from itself, and of the median from zero."""
    found = table(np.random.default_rng(0).normal(size=(5, 40)))
    found[at] = found[at[::-1]] = told
    undefined = at in ((2, 2), (5, 6)) and not np.isfinite(told)  # as of an update that is not finite
    assert possible(found) == (undefined or at == (2, 2))


def test_a_part_is_symmetric() -> None:
    found = table(np.random.default_rng(0).normal(size=(5, 40)))
    found[0, 1] *= 1.01
    assert not possible(found)
