"""Grids: what rounding may move, what the ring holds, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.errors import ConfigError
from silofl.privacy.clipping import clip
from silofl.privacy.grid import FLOAT_MARGIN, TAIL, Grid, Need, grid_for, sensitivity

NEED = Need(1.0, 1.0, 5000, 32, silos=4, shares=3, sources=4, bound=100.0)


def need(**changes: object) -> Need:
    return Need(**{**NEED.__dict__, **changes})  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 400),
    st.floats(0.1, 3000.0),
    st.integers(0, 2**32 - 1),
)
def test_rounding_moves_a_sum_by_no_more_than_is_counted_on(d: int, norm: float, seed: int) -> None:
    """Two sums that differ by one vector, rounded with the same coins, as `quantize` does."""
    rng = np.random.default_rng(seed)
    vector = rng.standard_normal(d)
    vector *= norm / np.linalg.norm(vector)
    without, coins = rng.uniform(-1e4, 1e4, d), rng.uniform(0, 1, d)
    moved = np.floor(without + vector + coins) - np.floor(without + coins)
    assert np.linalg.norm(moved) <= sensitivity(norm, d)


@settings(deadline=None, max_examples=60)
@given(
    st.floats(1e-3, 1e3),
    st.floats(0.3, 50.0),
    st.integers(1, 10**8),
    st.integers(2, 20),
    st.sampled_from([16, 32]),
)
def test_a_grid_keeps_its_promises_or_is_refused(
    norm: float, noise: float, d: int, silos: int, bits: int
) -> None:
    wanted = Need(norm, noise, d, bits, silos, silos - 1, silos, bound=norm)  # type: ignore[arg-type]
    try:
        grid = grid_for(wanted)
    except ConfigError:
        return
    units = norm * (1 + FLOAT_MARGIN) / grid.step
    assert grid.sensitivity >= sensitivity(units, d) * (1 - 1e-12)
    assert grid.noise_multiplier(silos - 1) == pytest.approx(noise)
    assert grid.noise_multiplier(silos) > noise
    assert grid.limit * grid.step >= norm
    most = silos * grid.limit + TAIL * math.sqrt(grid.share * silos)
    assert most <= 2 ** (bits - 1) - 1


def test_enough_noise_is_left_when_silos_are_lost() -> None:
    grid = grid_for(need(shares=2))
    assert grid.noise_multiplier(2) == pytest.approx(1.0)
    assert grid.noise_multiplier(1) < 1.0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bits": 8, "dimensions": 10**6}, "use secure.bits = 32"),
        ({"bits": 16, "noise_multiplier": 1e4}, "noise of multiplier 10000"),
        ({"noise_multiplier": 1e8}, "use less noise, or a smaller model"),
        ({"bits": 16, "bound": 1e6}, "coordinates up to 1e+06"),
    ],
)
def test_a_ring_that_is_too_small_is_refused_with_the_numbers(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match="too small a ring") as caught:
        grid_for(need(**changes))
    assert told in str(caught.value)


def test_a_fine_grid_costs_next_to_nothing() -> None:
    grid = grid_for(need(dimensions=10**6))
    assert 1.0 < grid.sensitivity * grid.step < 1.008
    assert isinstance(grid, Grid)


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=1, max_size=50), st.floats(1e-3, 1e6))
def test_a_clipped_update_is_within_its_norm(values: list[float], norm: float) -> None:
    update = np.array(values, np.float32)
    before = update.copy()
    found = clip([update], norm)
    exact = math.sqrt(sum(float(v) ** 2 for v in before))
    assert found == pytest.approx(exact)
    assert math.sqrt(sum(float(v) ** 2 for v in update)) <= norm * (1 + 2**-23) or exact <= norm
    if exact <= norm:
        np.testing.assert_array_equal(update, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_brings_nothing(bad: float) -> None:
    update = np.array([1.0, bad, 2.0], np.float32)
    assert clip([update], 1.0) == math.inf
    assert not update.any()
