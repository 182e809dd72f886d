"""What releases cost: the epsilon of many noisy sums at a delta, never below the exact value.

`pld` composes privacy loss distributions: a release's loss is put on a grid by dp-accounting's pessimistic
rule (connect the dots: Doroshenko et al. 2022, Section 3), losses add up as a product of Fourier transforms
(Koskela, Jälkö, Honkela 2020), and what is not sampled is dp-accounting's exact Gaussian. `rdp` adds up Renyi
orders (Mironov 2017), for Skellam noise, whose loss distribution in many dimensions is not known.

The result depends on the counts alone, not on order or calls: a resumed run reports the same bits. It never
falls as more is spent, because the grid only gets coarser, each one a part of the finer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from silofl.errors import ConfigError
from silofl.privacy.releases import Release, check_release

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Method = Literal["pld", "rdp"]

SMOOTHING = 3.0
"""Variance that is given up to see a discrete Gaussian as a continuous one, in squared units of the grid."""

_REACH = 10.0  # standard deviations at which the noise is cut off: 8e-24 of it lies further out
_POINTS = 2.0**-14  # a grid's step, over the largest loss of one release
_STEP = 4e-4  # a grid's step, over the standard deviation of the whole loss
_FINEST = 2.0**-34  # a grid's step, below which rounding of the losses themselves is felt
_TAIL = 1e-16  # mass of the whole loss that may lie outside the transform
_NEARLY_ALL = 1 - 1e-4  # sampling of more than this is seen as none, which reveals no less
_LOSS_ERROR = 1e-11  # of a cell's mean loss, by rounding: differences of distribution functions of 1/30000
_DISTANCE_PARTS = (1e-3, 0.03, 0.5)  # of delta that are set aside for noise that is not quite as described
_ORDERS = 2.0 ** np.arange(-13, 1.5, 0.5)  # of Chernoff's bound, per step of the grid

_FRACTIONAL = [1 + step / 20 for step in range(1, 200) if step % 20]
_INTEGER = sorted({*range(2, 129), *(int(128 * 1.05**power) for power in range(1, 100))})


def epsilon(spent: Mapping[Release, int], delta: float, method: Method) -> float:
    """Epsilon at `delta` of all releases in `spent`, each as often as it says, chosen adaptively or not.

    0 for nothing; infinity when slack and distance use up delta. Where the descriptions hold except with
    probability s in all, and give (eps, delta), the whole is (eps - log(1 - s), delta + s)-private; noise at
    distance t in all from that described adds (1 + exp(eps)) t to delta, once for each of two neighbours.

    `pld` is at most 1% above the exact value up to 10 000 releases; further out it stays above and loses
    slowly. ConfigError for what cannot be supported: another sampler or mechanism, Skellam by `pld`, improper
    numbers, a missing dp-accounting.
    """
    check(spent, method)
    if not 0 < delta < 1:
        raise ConfigError(
            f"privacy.delta is {delta}; it must lie between 0 and 1, below one over the records"
        )
    library = _library()
    counts = {release: count for release, count in spent.items() if count}
    left = delta - math.fsum(release.slack * count for release, count in counts.items())
    if left <= 1e-12 * delta:  # what is left is the sum's rounding
        return math.inf
    distance = math.fsum(release.distance * count for release, count in counts.items())
    for part in _DISTANCE_PARTS if distance else (0.0,):
        rest = left * (1 - part)
        certain = _pld_epsilon(counts, rest) if method == "pld" else _rdp_epsilon(counts, rest, library)
        if (1 + math.exp(min(certain, 700.0))) * distance <= part * left:
            break
    else:
        return math.inf
    return certain - math.fsum(math.log1p(-release.slack) * count for release, count in counts.items())


def check(spent: Mapping[Release, int], method: Method) -> None:
    """ConfigError for a release, a count or a method that the accountant cannot support."""
    if method not in get_args(Method):
        raise ConfigError(
            f"privacy.accountant is {method!r}; it must be one of {', '.join(get_args(Method))}"
        )
    for release, count in spent.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ConfigError(f"a release was made {count!r} times; that must be a whole number, 0 or more")
        check_release(release)
        if release.mechanism == "skellam" and method == "pld":
            raise ConfigError(
                "no loss distribution is known of skellam noise in many dimensions; use accountant = 'rdp'"
            )


def _library() -> ModuleType:
    """dp-accounting; late, because it takes a second that runs without privacy need not spend."""
    try:
        import dp_accounting.gaussian_mechanism
        import dp_accounting.rdp
    except ImportError as error:
        raise ConfigError("[privacy] needs dp-accounting: pip install 'silofl[privacy]'") from error
    return dp_accounting  # type: ignore[no-any-return]


# Privacy loss distributions


@dataclass(frozen=True)
class _Losses:
    """A loss distribution: `probs[k]` at the loss (first + k) * step, and `infinite` at infinity."""

    first: int
    probs: Floats
    infinite: float


Sampled = tuple[float, float]
"""Noise multiplier and sample rate of a Gaussian."""


def gaussian_of(release: Release) -> Sampled:
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


def _pld_epsilon(counts: Mapping[Release, int], delta: float) -> float:
    sampled: Counter[Sampled] = Counter()
    precision = []  # of the releases with everybody in, which are together one Gaussian
    for release, count in counts.items():
        noise, rate = gaussian_of(release)
        if rate > _NEARLY_ALL:
            precision.append(count / noise**2)
        else:
            sampled[noise, rate] += count
    whole = math.fsum(precision)
    if not sampled:
        return _gaussian_epsilon(whole, delta)
    if whole:
        sampled[1 / math.sqrt(whole), 1.0] = 1
    parts = sorted(sampled.items())  # so that the bits do not depend on the order in which things were spent
    step = _grid_step(parts)
    return max(_side_epsilon(parts, side, step, delta) for side in (0, 1))


def _gaussian_epsilon(precision: float, delta: float) -> float:
    """Exactly (Balle, Wang 2018, Theorem 8), rounded up by more than the solver's tolerance."""
    if precision == 0:
        return 0.0
    from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

    exact = float(get_epsilon_gaussian(1 / math.sqrt(precision), delta))
    return exact * (1 + 1e-10) + 1e-11 if exact > 0 else 0.0


def _grid_step(parts: Iterable[tuple[Sampled, int]]) -> float:
    """The grid's step: a power of two, so that grids are nested, that never falls as more is spent."""
    variance, largest = 0.0, 0.0
    for (noise, rate), count in parts:
        exponent = min(noise**-2, 700.0)
        variance += count * min(noise**-2, rate**2 * math.expm1(exponent))  # the loss's, in size
        largest = max(largest, _loss(1 + _REACH * noise, noise, rate))
    return 2.0 ** math.floor(math.log2(max(_STEP * math.sqrt(variance), _POINTS * largest, _FINEST)))


def _side_epsilon(parts: list[tuple[Sampled, int]], side: int, step: float, delta: float) -> float:
    """Epsilon of one direction: 0 where the record is removed, 1 where it is added."""
    one = [_one_release(noise, rate, step)[side] for (noise, rate), _ in parts]
    counts = [count for _, count in parts]
    moments = [_log_moments(noise, rate, step, side) for (noise, rate), _ in parts]
    lowest, highest = _window(np.sum([n * m for n, m in zip(counts, moments, strict=True)], axis=0))
    length = 1 << (max(highest - lowest + 1, *(losses.probs.size for losses in one)) - 1).bit_length()
    spectrum = np.ones(1, np.complex128)
    for (noise, rate), count in parts:
        spectrum = spectrum * _power(_spectrum(noise, rate, step, side, length), count)
    first = sum(n * losses.first for n, losses in zip(counts, one, strict=True))
    start = max(lowest, -first)  # losses below 0 count for no epsilon
    probs = np.roll(np.fft.irfft(spectrum, length), -start)[: max(highest - start + 1, 0)]
    infinite = math.fsum(n * losses.infinite for n, losses in zip(counts, one, strict=True))
    rounding = 1e-16 * (sum(counts) + 1e3)  # of the transforms
    return _hockey_stick((first + start) * step, step, probs, infinite + _TAIL + rounding, delta)


def _window(log_moments: Floats) -> tuple[int, int]:
    """Positions outside which less than _TAIL lies on either side (Chernoff)."""
    below, above = log_moments[: _ORDERS.size], log_moments[_ORDERS.size :]
    margin = -math.log(_TAIL)
    lowest = max(0.0, float(np.max(-(below + margin) / _ORDERS)))
    return math.floor(lowest), math.ceil(float(np.min((above + margin) / _ORDERS)))


def _hockey_stick(first: float, step: float, probs: Floats, infinite: float, delta: float) -> float:
    """The least epsilon >= 0 with E[1 - exp(epsilon - loss)]+ <= delta, losses from `first` (>= 0) on."""
    from scipy.signal import lfilter  # type: ignore[import-untyped]

    if infinite >= delta:
        return math.inf
    if probs.size == 0:
        return 0.0
    downwards = np.maximum(probs[::-1], 0.0)
    above = infinite + np.cumsum(downwards)  # mass at this loss and above
    # the same under the other data, times exp(loss)
    other = lfilter([1.0], [1.0, -math.exp(-step)], downwards)
    # seen from the top, delta(loss) rises; where it is first too much is below epsilon
    too_much = np.flatnonzero(above - other > delta)
    count = int(too_much[0]) if too_much.size else probs.size
    if count == 0:
        return math.inf
    mass, scaled = above[count - 1], other[count - 1]
    if mass <= delta:
        return 0.0
    return max(0.0, first + (probs.size - count) * step + math.log((mass - delta) / scaled))


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
def _log_moments(noise: float, rate: float, step: float, side: int) -> Floats:
    """log E[exp(order * k)] of the positions k of the finite losses, at -_ORDERS and _ORDERS."""
    probs = _one_release(noise, rate, step)[side].probs
    at, logs = np.flatnonzero(probs), np.log(probs[probs > 0])
    exponents = (logs + order * at for order in np.concatenate((-_ORDERS, _ORDERS)))
    return np.array([(top := row.max()) + math.log(np.exp(row - top).sum()) for row in exponents])


@lru_cache(maxsize=16)
def _spectrum(noise: float, rate: float, step: float, side: int, length: int) -> NDArray[np.complex128]:
    return np.fft.rfft(_one_release(noise, rate, step)[side].probs, length)


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


# Renyi differential privacy


def _rdp_epsilon(counts: Mapping[Release, int], delta: float, library: ModuleType) -> float:
    if not counts:
        return 0.0
    rows = sorted((release.to_json(), count, _renyi(release)) for release, count in counts.items())
    total = sum(count * row for _, count, row in rows)
    return float(library.rdp.compute_epsilon([*_FRACTIONAL, *_INTEGER], total, delta)[0])


@lru_cache(maxsize=64)
def _renyi(release: Release) -> Floats:
    """Renyi divergences of one release at all orders; infinite at orders for which no bound is known."""
    rate, bound = release.sample_rate, _RENYI[release.mechanism]
    broken, whole = bound(np.array(_FRACTIONAL), release), bound(np.array(_INTEGER, np.float64), release)
    if release.mechanism == "skellam":
        broken = np.full_like(broken, np.inf)
    if rate < 1:
        # the moment is convex in the two distributions (van Erven, Harremoes 2014, Theorem 13)
        less = np.array(_FRACTIONAL) - 1
        broken = np.logaddexp(math.log1p(-rate), math.log(rate) + less * broken) / less
        whole = np.array([_sampled_renyi(order, rate, bound, release) for order in _INTEGER])
    return np.concatenate((broken, whole))


def _sampled_renyi(
    order: int, rate: float, bound: Callable[[Floats, Release], Floats], release: Release
) -> float:
    """With Poisson sampling, at an integer order: the binomial expansion of the mixture's moment.

    Mironov, Talwar, Zhang 2019, Section 3.3. Their Theorem 5, that this direction is the worse one, holds for
    any noise symmetric about 0, on the integers too: x -> v - x swaps the noise around 0 and around v. Terms
    are those of the moment less 1, all positive, so that small divergences keep their digits.
    """
    from scipy.special import gammaln, logsumexp

    k = np.arange(2.0, order + 1)
    exponent = (k - 1) * bound(k, release)
    log_less_one = exponent + np.log(-np.expm1(-exponent))
    binomial = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    total = logsumexp(binomial + k * math.log(rate) + (order - k) * math.log1p(-rate) + log_less_one)
    return float(np.logaddexp(0.0, total) if total > -30 else np.exp(total)) / (order - 1)


def _gaussian_renyi(orders: Floats, release: Release) -> Floats:
    """Mironov 2017, Proposition 7; the discrete Gaussian's too: Canonne et al. 2020, Proposition 5."""
    return orders / (2 * release.noise_multiplier**2)


def _skellam_renyi(orders: Floats, release: Release) -> Floats:
    """Agarwal, Kairouz, Liu 2021, Theorem 3.5, with the L1 sensitivity of integers: the squared L2."""
    variance, squared = release.variance, release.variance / release.noise_multiplier**2
    fine = ((2 * orders - 1) * squared + 6 * squared) / (4 * variance**2)
    return orders * squared / (2 * variance) + np.minimum(fine, 3 * squared / (2 * variance))


_RENYI = {"gaussian": _gaussian_renyi, "discrete-gaussian": _gaussian_renyi, "skellam": _skellam_renyi}
