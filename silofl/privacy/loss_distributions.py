"""Privacy loss distributions: epsilon of composed, sampled Gaussians, never below the exact value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from silofl.privacy import binomial_shifts, replace_one
from silofl.privacy.releases import Release, replaced_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SMOOTHING = 3.0
"""Variance that is given up to see a discrete Gaussian as a continuous one, in squared units of the grid."""

_REACH = 10.0  # standard deviations at which the noise is cut off: 8e-24 of it lies further out
_POINTS = 2.0**-15  # a grid's step, over the largest loss of one release
_STEP = 4e-4  # a grid's step, over the standard deviation of the whole loss
_FINEST = 2.0**-34  # a grid's step, below which rounding of the losses themselves is felt
_TAIL = 1e-12  # part of the mass of the whole loss, tilted, that may lie outside the transform
_NEARLY_ALL = 1 - 1e-4  # sampling of more than this is seen as none, which reveals no less
_LOSS_ERROR = 1e-11  # of a cell's mean loss, by rounding: differences of distribution functions of 1/30000
_ORDERS = 2.0 ** np.arange(-13, 2)  # of Chernoff's bound, per step of the grid
_TILTS, _NO_ERROR = 6, 1e-3  # tilts that are tried, each a fourth of the last, until they err by so little
_LONG = 1 << 21  # positions that a transform for a second try may have
_OFFSETS = 4.0 ** np.arange(-3, 2)  # of the orders on either side of a tilt, over it


@dataclass(frozen=True)
class _Losses:
    """A loss distribution: `probs[k]` at the loss (first + k) * step, and `infinite` at infinity."""

    first: int
    probs: Floats
    infinite: float


Sampled = tuple[float, float, int]
"""Noise multiplier and sample rate of a Gaussian, and how many silos sample a person each for itself."""
REMOVED, ADDED, REPLACED = 0, 1, 2
"""What is done to the record in one of two neighbours."""


def gaussian_of(release: Release) -> tuple[float, float]:
    """The Gaussian mechanism (noise multiplier, sample rate) that is at least as revealing as `release`.

    A discrete Gaussian of variance s^2 on the integers is post-processing of the continuous one of variance
    s^2 - 3: given y = x + N(0, s^2 - 3), show the integer m with probability proportional to
    exp(-(m - y)^2 / 6). By Poisson's summation formula the normalizer is the same for every y but for a
    factor 1 +- 2 exp(-6 pi^2), so m has the discrete Gaussian's probabilities but for a factor 1 +- 8e-26:
    a coordinate's loss is off by 2e-25 at most, and that of 1e9 coordinates in 1e5 releases by 2e-11.
    Post-processing commutes with sampling records. The sum of independent discrete Gaussians of variance v or
    more each has the probabilities of one of their whole variance but for a factor 1 +- 2 exp(-pi^2 v) a part
    (the same formula; Peikert 2010, Theorem 3.1; Kairouz, Liu, Steinke 2021): 2e-17 for v = 4.
    """
    if release.mechanism == "gaussian":
        return release.noise_multiplier, release.sample_rate
    kept = (release.variance - SMOOTHING) / release.variance
    return release.noise_multiplier * math.sqrt(kept), release.sample_rate


def pld_epsilon(counts: Mapping[Release, int], delta: float) -> float:
    """Epsilon at `delta` of all releases together, whose descriptions hold: see `accountant.epsilon`."""
    sampled: Counter[Sampled] = Counter()
    precision = []  # of the releases with everybody in, which are together one Gaussian
    for release, count in counts.items():
        noise, rate = gaussian_of(release)
        if rate > _NEARLY_ALL:
            precision.append(count * release.institutions**2 / noise**2)
        else:
            sampled[noise, rate, release.institutions] += count
    whole, replaced = math.fsum(precision), replaced_in(counts)
    if not sampled:
        return _gaussian_epsilon(4 * whole if replaced else whole, delta)
    if whole:
        sampled[1 / math.sqrt(whole), 1.0, 1] = 1
    parts = sorted(sampled.items())  # so that the bits do not depend on the order in which things were spent
    sides = (REPLACED,) if replaced else (REMOVED, ADDED)
    step = _grid_step(parts, sides[0])
    return max(_side_epsilon(parts, side, step, delta) for side in sides)


def _gaussian_epsilon(precision: float, delta: float) -> float:
    """Exactly (Balle, Wang 2018, Theorem 8), rounded up by more than the solver's tolerance."""
    if precision == 0:
        return 0.0
    from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

    exact = float(get_epsilon_gaussian(1 / math.sqrt(precision), delta))
    return exact * (1 + 1e-10) + 1e-11 if exact > 0 else 0.0


def _grid_step(parts: Iterable[tuple[Sampled, int]], side: int = 0) -> float:
    """The grid's step: a power of two, so that grids are nested, that never falls as more is spent."""
    variance, largest = 0.0, 0.0
    apart = 2 if side == REPLACED else 1
    for (noise, rate, silos), count in parts:
        exponent = min(noise**-2, 700.0)
        each = min(noise**-2, rate**2 * math.expm1(exponent))  # the variance of the loss, in size
        variance += count * silos**2 * each
        largest = max(largest, _loss_at(silos + _REACH * noise, (noise, rate, silos), side))
    variance *= apart**2
    return 2.0 ** math.floor(math.log2(max(_STEP * math.sqrt(variance), _POINTS * largest, _FINEST)))


def _side_epsilon(parts: list[tuple[Sampled, int]], side: int, step: float, delta: float) -> float:
    """Epsilon of one direction: REMOVED, ADDED, or REPLACED, which is its own other direction."""
    if sum(count for _, count in parts) == 1:
        [(only, _)] = parts
        alone = _losses(only, step, side)
        start, more = max(0, -alone.first), np.full(alone.probs.size, alone.infinite)
        masses = alone.probs[start:]
        return _hockey_stick((alone.first + start) * step, step, masses, more[start:], delta)[0]
    found = math.inf
    for tilt, window in _tilts(parts, side, step, delta):  # each gives a bound
        if math.isfinite(found) and window[1] - window[0] > _LONG:
            break
        bound, error = _tilted_epsilon(parts, side, step, tilt, window, delta)
        found = min(found, bound)
        if error <= _NO_ERROR * delta:
            break
    return found


def _tilts(
    parts: list[tuple[Sampled, int]], side: int, step: float, delta: float
) -> Iterator[tuple[float, tuple[int, int]]]:
    """Tilts to try, with their windows: the least that are exact enough first, for they need the shortest."""
    chernoff = (_moments(parts, side, step, tuple(_ORDERS)) - math.log(delta)) / _ORDERS
    best = float(_ORDERS[np.argmin(chernoff)])
    tilts = best * 4.0 ** -np.arange(_TILTS)
    moments = _moments(parts, side, step, tuple(tilts))
    at = float(chernoff.min())  # epsilon is not above this
    enough = _rounding(parts) * np.exp(moments - tilts * at) <= 0.1 * _NO_ERROR * delta
    for one in (*np.flatnonzero(enough)[::-1], *np.flatnonzero(~enough)):
        yield float(tilts[one]), _window(parts, side, step, float(tilts[one]), best)


def _rounding(parts: Iterable[tuple[Sampled, int]]) -> float:
    """What transforms err by, of a mass of 1, and what lies outside of them."""
    return 1e-16 * (sum(count for _, count in parts) + 1e3) + 2 * _TAIL


def _tilted_epsilon(
    parts: list[tuple[Sampled, int]],
    side: int,
    step: float,
    tilt: float,
    window: tuple[int, int],
    delta: float,
) -> tuple[float, float]:
    """Epsilon by transforms of losses tilted by an order, and how much of delta is what these may err by.

    They err by a part of 1e-16 of all mass. So mass is tilted to where epsilon is (Esscher 1932; Keich 2005,
    "sFFT"): what is found there is exact to a part of it, however small delta is.
    """
    from scipy.fft import next_fast_len  # type: ignore[import-untyped]

    one = [_losses(part, step, side) for part, _ in parts]
    counts, [moment] = [count for _, count in parts], _moments(parts, side, step, (tilt,))
    lowest, highest = window
    highest = min(highest, sum(n * (losses.probs.size - 1) for n, losses in zip(counts, one, strict=True)))
    length = next_fast_len(max(highest - lowest + 1, *(losses.probs.size for losses in one)), real=True)
    spectrum = np.ones(1, np.complex128)
    for part, count in parts:
        spectrum = spectrum * _power(_spectrum(part, step, side, tilt, length), count)
    first = sum(n * losses.first for n, losses in zip(counts, one, strict=True))
    start = max(lowest, -first)  # losses below 0 count for no epsilon
    probs = np.roll(np.fft.irfft(spectrum, length), -start)[: max(highest - start + 1, 0)]
    infinite = math.fsum(n * losses.infinite for n, losses in zip(counts, one, strict=True))
    back = np.exp(np.minimum(moment - tilt * (start + np.arange(probs.size)), 600.0))
    masses = np.maximum(probs, 0.0) * back
    return _hockey_stick((first + start) * step, step, masses, infinite + _rounding(parts) * back, delta)


def _window(
    parts: list[tuple[Sampled, int]], side: int, step: float, tilt: float, order: float
) -> tuple[int, int]:
    """Positions outside which less than _TAIL of the tilted mass lies on either side (Chernoff).

    `order` is of the size of those that bound it best.
    """
    margin, offsets = -math.log(_TAIL), order * _OFFSETS
    [moment] = _moments(parts, side, step, (tilt,))
    below = _moments(parts, side, step, tuple(tilt - offsets))
    above = _moments(parts, side, step, tuple(tilt + offsets))
    lowest = max(0.0, float(np.max((moment - below - margin) / offsets)))
    return math.floor(lowest), math.ceil(float(np.min((above - moment + margin) / offsets)))


def _moments(parts: list[tuple[Sampled, int]], side: int, step: float, orders: tuple[float, ...]) -> Floats:
    """log E[exp(order * k)] of the whole loss's position k, but for infinite ones."""
    rows = [count * _log_moments(part, step, side, orders) for part, count in parts]
    return np.asarray(np.sum(rows, axis=0))


def _hockey_stick(
    first: float, step: float, masses: Floats, more: Floats, delta: float
) -> tuple[float, float]:
    """The least epsilon >= 0 with E[1 - exp(epsilon - loss)]+ <= delta, losses from `first` (>= 0) on.

    `more` is what may lie at any loss from each position on besides `masses`; it falls with the loss. The
    second result is its value at epsilon.
    """
    from scipy.signal import lfilter  # type: ignore[import-untyped]

    if masses.size == 0:
        return 0.0, 0.0
    downwards = masses[::-1]
    above = more[::-1] + np.cumsum(downwards)  # mass at this loss and above
    # the same under the other data, times exp(loss)
    other = lfilter([1.0], [1.0, -math.exp(-step)], downwards)
    # seen from the top, delta(loss) rises; where it is first too much is below epsilon
    too_much = np.flatnonzero(above - other > delta)
    count = int(too_much[0]) if too_much.size else masses.size
    if count == 0:
        return math.inf, math.inf
    mass, scaled = above[count - 1], other[count - 1]
    error = float(more[masses.size - count])
    if mass <= delta:
        return 0.0, error
    found = first + (masses.size - count) * step + min(0.0, math.log((mass - delta) / scaled))
    return max(0.0, found), error


def _loss(x: float, noise: float, rate: float) -> float:
    """log of the density of rate N(1, noise^2) + (1 - rate) N(0, noise^2) over that of N(0, noise^2)."""
    with np.errstate(divide="ignore"):
        return float(np.logaddexp(np.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2)))


def _where(losses: Floats, noise: float, rate: float) -> Floats:
    """The x with these losses: the inverse of `_loss`; minus infinity below its least."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.log(-np.expm1(np.minimum(np.log1p(-rate) - losses, 0.0)))
        return np.asarray(noise**2 * (losses - math.log(rate) + inner) + 0.5)


@lru_cache(maxsize=32)
def _one_release(noise: float, rate: float, step: float) -> tuple[_Losses, _Losses]:
    """Loss distributions of one Poisson-sampled Gaussian: a record is removed, and one is added."""
    first = math.floor(_loss(-_REACH * noise, noise, rate) / step) - 1
    last = math.ceil(_loss(1 + _REACH * noise, noise, rate) / step) + 1
    grid = step * np.arange(first, last + 1, dtype=np.float64)
    edges = np.maximum.accumulate(_where(grid, noise, rate))  # rounding may have swapped neighbours
    edges = np.pad(edges, 1, constant_values=(-np.inf, np.inf))
    without = _normal_masses(edges / noise)
    within = (1 - rate) * without + rate * _normal_masses((edges - 1) / noise)
    removed = _dots(within, without, grid, step)
    added = _dots(without[::-1], within[::-1], -grid[::-1], step)
    return _Losses(first, removed, float(within[-1])), _Losses(-last, added, float(without[0]))


def _losses(part: Sampled, step: float, side: int) -> _Losses:
    """The loss distribution of one release on one side."""
    noise, rate, silos = part
    if silos > 1:
        return _shared_release(part, step, side)
    return _replaced_release(noise, rate, step) if side == REPLACED else _one_release(noise, rate, step)[side]


def _loss_at(x: float, part: Sampled, side: int) -> float:
    """The loss of one release at x: on the side ADDED that of REMOVED, with another sign."""
    noise, rate, silos = part
    if silos > 1:
        curve = binomial_shifts.replaced_loss if side == REPLACED else binomial_shifts.removed_loss
        return float(curve(np.array([x]), noise, rate, silos)[0][0])
    return replace_one.loss(x, noise, rate) if side == REPLACED else _loss(x, noise, rate)


@lru_cache(maxsize=32)
def _shared_release(part: Sampled, step: float, side: int) -> _Losses:
    """The loss distribution of one release for which several silos sample a person: `binomial_shifts`."""
    noise, _, silos = part
    last = math.ceil(_loss_at(silos + _REACH * noise, part, side) / step) + 1
    first = -last if side == REPLACED else math.floor(_loss_at(-_REACH * noise, part, side) / step) - 1
    grid = step * np.arange(first, last + 1, dtype=np.float64)
    masses = binomial_shifts.replaced_masses if side == REPLACED else binomial_shifts.removed_masses
    within, without = masses(grid, *part, _REACH, _normal_masses)
    if side == ADDED:
        return _Losses(-last, _dots(without[::-1], within[::-1], -grid[::-1], step), float(without[0]))
    return _Losses(first, _dots(within, without, grid, step), float(within[-1]))


@lru_cache(maxsize=32)
def _replaced_release(noise: float, rate: float, step: float) -> _Losses:
    """The loss distribution of one Poisson-sampled Gaussian in which a record is replaced: `replace_one`."""
    last = math.ceil(replace_one.loss(1 + _REACH * noise, noise, rate) / step) + 1
    grid = step * np.arange(-last, last + 1, dtype=np.float64)
    within, without = replace_one.masses(grid, noise, rate, _normal_masses)
    return _Losses(-last, _dots(within, without, grid, step), float(within[-1]))


def _normal_masses(edges: Floats) -> Floats:
    """Mass of N(0, 1) between neighbouring edges, each from the tail in which it is the more precise."""
    from scipy.special import ndtr  # type: ignore[import-untyped]

    right = edges[:-1] > 0
    masses = np.where(right, ndtr(-edges[:-1]) - ndtr(-edges[1:]), ndtr(edges[1:]) - ndtr(edges[:-1]))
    return np.asarray(masses, np.float64)


def _dots(mass: Floats, other: Floats, grid: Floats, step: float) -> Floats:
    """Each cell's `mass`, moved to the cell's ends with both it and `other`, sum of mass * exp(-loss), kept.

    This is the least distribution on the grid that dominates the true one: what connecting the dots gives,
    but of differences that keep their digits. `mass` and `other` begin with what lies below the grid, which
    goes to its first point, and end with what lies above it, which is the caller's.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = -np.expm1(grid[:-1] + np.log(other[1:-1] / mass[1:-1])) / -math.expm1(-step)
    share = np.clip(np.nan_to_num(share, nan=1.0, posinf=1.0) + _LOSS_ERROR / step, 0.0, 1.0)
    upper = share * mass[1:-1]
    probs = np.concatenate((mass[:1], upper))
    probs[:-1] += mass[1:-1] - upper
    return probs


@lru_cache(maxsize=64)
def _log_moments(part: Sampled, step: float, side: int, orders: tuple[float, ...]) -> Floats:
    """log E[exp(order * k)] of the positions k of the finite losses of one release."""
    probs = _losses(part, step, side).probs
    at, logs = np.flatnonzero(probs), np.log(probs[probs > 0])
    rows = (logs + order * at for order in orders)
    return np.array([(top := row.max()) + math.log(np.exp(row - top).sum()) for row in rows])


@lru_cache(maxsize=16)
def _spectrum(part: Sampled, step: float, side: int, tilt: float, length: int) -> NDArray[np.complex128]:
    """Of the losses of one release, tilted to a mass of 1."""
    probs = _losses(part, step, side).probs
    [whole] = _log_moments(part, step, side, (tilt,))
    with np.errstate(divide="ignore"):
        tilted = np.exp(np.log(probs) + tilt * np.arange(probs.size) - whole)
    return np.fft.rfft(tilted, length)


def _power(base: NDArray[np.complex128], exponent: int) -> NDArray[np.complex128]:
    """base ** exponent, from 1 on, by squaring: many times as fast as numpy's complex power, and as exact."""
    square, result = base.copy(), None
    while True:
        if exponent & 1:
            result = square.copy() if result is None else np.multiply(result, square, out=result)
        exponent >>= 1
        if not exponent:
            return square if result is None else result
        np.multiply(square, square, out=square)
