"""The grid on which noise is exact: how fine it is, how much noise it needs, and what the ring must hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

from silofl.errors import ConfigError
from silofl.types import RingBits

FLOAT_MARGIN = 2.0**-8
"""Relative: how far clipping and summing in float arithmetic may let an example exceed its norm; measured to
hold for batches of 200 000 in float32, an assumption of `docs/privacy.md`."""
BETA = 1e-15
"""The most that `Need.beta` is: of a run with little delta for many releases it is less."""
TAIL = 9.0
"""Standard deviations of noise that the ring holds beside the sum; more wraps, which costs accuracy alone."""
MOST_VARIANCE = 1e8
"""Of a sampler's table, in squared units."""
LEAST_SHARE = 16.0
"""Of each source: sums of discrete Gaussians of less are not so nearly one: see `gaussian_of`."""
FINE = 8.0
"""Units of the norm for each square root of a dimension; rounding then adds less than 0.3 % of noise."""
MOST_LOSS = 1.5
"""Factor of noise for rounding at which the grid is too coarse to be of use."""


@dataclass(frozen=True)
class Need:
    """What a noisy sum of vectors is to be."""

    clip_norm: float
    """L2 norm by which one example, or one silo, moves the sum."""
    noise_multiplier: float
    """Standard deviation over sensitivity that the observer must at least meet."""
    dimensions: int
    bits: RingBits
    silos: int
    shares: int
    """How many silos' noise makes up that standard deviation; 1 where one source adds all of it."""
    sources: int
    """How many silos add as much each."""
    bound: float
    """Largest magnitude of one silo's coordinate that should pass unchanged."""
    beta: float = BETA
    """Probability with which rounding may move one example's part by more than `sensitivity` counts on."""
    column_norm: float = 1.0
    """How much further one round's part moves the rows that noise covers together: see `bands.py`."""
    spread: float = 1.0
    """Standard deviation of the noise that a sum has at most, over that of the noise that counts."""


@dataclass(frozen=True)
class Grid:
    """Vectors as integers, in units of `step`."""

    step: float
    """Value of a unit."""
    limit: int
    """Largest magnitude of one silo's integers before noise."""
    sensitivity: float
    """L2 norm, in units, by which one example or one silo moves the sum of integers, or with correlated noise
    all rows of C times the sums in which one round's part is."""
    share: float
    """Variance of the noise that each source adds, in squared units; of what is independent in it."""

    def noise_multiplier(self, shares: int) -> float:
        """What the noise of so many sources is worth."""
        return math.sqrt(self.share * shares) / self.sensitivity

    def variance(self, shares: int) -> float:
        """Of so many sources, in squared units."""
        return self.share * shares


def sensitivity(norm: float, dimensions: int, beta: float = BETA) -> float:
    """How far rounding to integers lets a vector of L2 `norm` move a sum, but with probability `beta`.

    Stochastic rounding with coins that do not depend on data: given them, two sums that differ by g differ by
    a randomized rounding of g, whose norm Kairouz, Liu and Steinke 2021 bound (theorem 1, where the second
    term holds always).
    """
    root = math.sqrt(dimensions)
    deviation = math.sqrt(2 * math.log(1 / beta)) * (norm + root / 2)
    return min(math.sqrt(norm**2 + dimensions / 4 + deviation), norm + root)


def grid_for(need: Need) -> Grid:
    """The finest useful grid. ConfigError, with the numbers, where the ring cannot hold noise and sum."""
    fine = max(64.0, FINE * math.sqrt(need.dimensions))
    norm = fine if _fits(need, fine) else _largest(need, fine)
    grid = _grid(need, norm)
    exact = need.clip_norm * (1 + FLOAT_MARGIN) / grid.step if norm else 0.0
    if not norm or grid.sensitivity > MOST_LOSS * exact * need.column_norm:
        raise ConfigError(_too_small(need, norm))
    return grid


def _grid(need: Need, norm: float) -> Grid:
    """With so many units to the clipping norm."""
    norm = max(norm, 1e-3)
    step = need.clip_norm * (1 + FLOAT_MARGIN) / norm
    moved = sensitivity(norm, need.dimensions, need.beta) * need.column_norm
    share = max((need.noise_multiplier * moved) ** 2 / need.shares, LEAST_SHARE)
    room = _room(need.bits) - _noise(need, share)
    return Grid(step, max(1, math.floor(room / need.silos)), moved, share)


def _fits(need: Need, norm: float) -> bool:
    grid = _grid(need, norm)
    return grid.share <= MOST_VARIANCE and grid.limit * grid.step >= need.bound


def _largest(need: Need, most: float) -> float:
    """The largest norm below `most` that fits, to a hundredth of it; 0 where none does."""
    low, high = 0.0, most
    while high - low > 1e-2 * max(low, 1e-2):
        middle = (low + high) / 2
        low, high = (middle, high) if _fits(need, middle) else (low, middle)
    return low


def _noise(need: Need, share: float) -> float:
    """How large the noise of a sum is, but for once in a very long time."""
    return TAIL * math.sqrt(share * need.sources) * need.spread


def _room(bits: int) -> int:
    return (1 << bits - 1) - 1


def _too_small(need: Need, norm: float) -> str:
    more = _grid(need, 1.02 * norm).share
    if more > MOST_VARIANCE and _room(need.bits) - _noise(need, more) >= need.silos:
        return (
            f"noise of multiplier {need.noise_multiplier:g} on {need.dimensions} coordinates is more than "
            f"noise tables have: a variance of {MOST_VARIANCE:g} leaves {norm:.3g} units to the clipping "
            f"norm {need.clip_norm:g}, and as many roundings need {math.sqrt(need.dimensions) / 2:.3g}; use "
            "less noise, or a smaller model"
        )
    return (
        f"secure.bits = {need.bits} is too small a ring for noise and sum: of {_room(need.bits)} levels, "
        f"{need.silos} silos with coordinates up to {need.bound:g} and noise of multiplier "
        f"{need.noise_multiplier:g} leave {norm:.3g} to the clipping norm {need.clip_norm:g}, and "
        f"{need.dimensions} roundings need {math.sqrt(need.dimensions) / 2:.3g}; "
        + ("use secure.bits = 32" if need.bits < 32 else "use less noise, or a smaller model")
    )
