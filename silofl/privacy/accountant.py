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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from silofl.errors import ConfigError
from silofl.privacy.loss_distributions import pld_epsilon
from silofl.privacy.releases import Release, check_release, refuse_renyi, replaced_in

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Method = Literal["pld", "rdp"]

_DISTANCE_PARTS = (1e-3, 0.03, 0.5)  # of delta that are set aside for noise that is not quite as described
_DRAWN_PARTS = (1e-3, 0.03, 0.3)  # of delta that are set aside for likelihoods that are off
_LITTLE = 1e-7  # off by less is no reason to set more aside

_FRACTIONAL = [1 + step / 20 for step in range(1, 200) if step % 20]
_INTEGER = sorted({*range(2, 129), *(int(128 * 1.05**power) for power in range(1, 100))})

_ONE_AT_A_TIME = Lock()


def epsilon(spent: Mapping[Release, int], delta: float, method: Method) -> float:
    """Epsilon at `delta` of all releases in `spent`, each as often as it says, chosen adaptively or not.

    0 for nothing; infinity when slack, distance and ratio use up delta: see `why_infinite`. Where the
    descriptions hold except with probability s in all, and give (eps, delta), the whole is
    (eps - log(1 - s), delta + s)-private; noise at distance t in all from that described adds
    (1 + exp(eps)) t to delta, once for each of two neighbours; likelihoods whose logarithms are off by m in
    the mean make it (eps + 2 r, exp(r) delta + m / r)-private for any r: see `drawn.py`.

    `pld` is at most 1% above the exact value up to 10 000 releases; further out it stays above and loses
    slowly. ConfigError for what cannot be supported: another sampler or mechanism, Skellam by `pld`, improper
    numbers, a missing dp-accounting.
    """
    check(spent, method)
    with _ONE_AT_A_TIME:  # who waits finds in the cache what others of its process were asking for, too
        made = frozenset((release, count) for release, count in spent.items() if count)
        return _epsilon(made, delta, method)


@lru_cache(maxsize=64)
def _epsilon(spent: frozenset[tuple[Release, int]], delta: float, method: Method) -> float:
    """Epsilon of releases that the accountant supports, and of how often each was made."""
    if not 0 < delta < 1:
        raise ConfigError(
            f"privacy.delta is {delta}; it must lie between 0 and 1, below one over the records, or persons"
        )
    library = _library()
    counts = dict(spent)
    left = delta - math.fsum(release.failing * count for release, count in counts.items())
    if left <= 1e-12 * delta:  # what is left is the sum's rounding
        return math.inf
    distance = math.fsum(release.distance * count for release, count in counts.items())
    for part in _DISTANCE_PARTS if distance else (0.0,):
        rest = left * (1 - part)
        certain = _epsilon_of_drawn(counts, rest, method, library)
        if (1 + math.exp(min(certain, 700.0))) * distance <= part * left:
            break
    else:
        return math.inf
    return certain - math.fsum(math.log1p(-release.failing) * count for release, count in counts.items())


def _epsilon_of_drawn(
    counts: Mapping[Release, int], delta: float, method: Method, library: ModuleType
) -> float:
    """Epsilon where nothing else is off but the likelihoods of noise that is drawn."""

    def exact(rest: float) -> float:
        return pld_epsilon(counts, rest) if method == "pld" else _rdp_epsilon(counts, rest, library)

    mean = math.fsum(release.ratio * count for release, count in counts.items())
    if not mean:
        return exact(delta)
    found = math.inf
    for part in _DRAWN_PARTS:
        off = mean / (part * delta)
        if off < 1:
            found = min(found, exact((1 - part) * delta * math.exp(-off)) + 2 * off)
        if off < _LITTLE:
            break
    return found


def why_infinite(spent: Mapping[Release, int], delta: float) -> str:
    """What it is, in a clause, that leaves no epsilon at `delta`: to be told where `epsilon` is infinite."""

    def over_the_run(name: str) -> float:
        return math.fsum(getattr(release, name) * count for release, count in spent.items())

    slack, mean, distance = map(over_the_run, ("failing", "ratio", "distance"))
    few = f"and privacy.delta is only {delta:g}: raise it, train fewer rounds, or"
    if slack >= delta * (1 - 1e-12):
        least = min(release.noise_multiplier for release in spent)
        return (
            f"rounding, and noise beyond the tables that it is drawn from, fail with probability "
            f"{slack:.3g}, {few} set more noise than a multiplier of {least:.3g}"
        )
    if mean >= _DRAWN_PARTS[-1] * (delta - slack) or distance >= delta - slack:
        return (
            f"noise tables, which are exact to about 2^-109 for each of the model's values, may tell more "
            f"with probability {max(mean, distance):.3g}, {few} set more noise or train a smaller model"
        )
    return "the noise is too little for any epsilon that can be told: set more of it"


def check(spent: Mapping[Release, int], method: Method | None = None) -> None:
    """ConfigError for a release, a count or a method that the accountant cannot support; without, by any."""
    if method not in (None, *get_args(Method)):
        raise ConfigError(
            f"privacy.accountant is {method!r}; it must be one of {', '.join(get_args(Method))}"
        )
    for release, count in spent.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ConfigError(f"a release was made {count!r} times; that must be a whole number, 0 or more")
        check_release(release)
        if method == "rdp":
            refuse_renyi(release)
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


# Renyi differential privacy


def _rdp_epsilon(counts: Mapping[Release, int], delta: float, library: ModuleType) -> float:
    if not counts:
        return 0.0
    return float(library.rdp.compute_epsilon([*_FRACTIONAL, *_INTEGER], _renyi_of_all(counts), delta)[0])


def best_orders(spent: Mapping[Release, int], deltas: Iterable[float]) -> tuple[list[float], list[float]]:
    """Renyi orders that give epsilon at one of the deltas, and the divergence of all releases at each.

    Without what noise that is drawn from tables, and rounding, take of delta. ConfigError as `epsilon`.
    """
    check(spent, "rdp")
    library, total = _library(), _renyi_of_all({one: count for one, count in spent.items() if count})
    orders = [*_FRACTIONAL, *_INTEGER]
    best = {float(library.rdp.compute_epsilon(orders, total, delta)[1]) for delta in deltas}
    kept = [at for at, order in enumerate(orders) if order in best]
    return [orders[at] for at in kept], [float(total[at]) for at in kept]


def _renyi_of_all(counts: Mapping[Release, int]) -> Floats:
    replaced_in(counts)  # which refuses those that do not add up
    scaled = {replace(one, noise_multiplier=one.noise_multiplier / one.apart): n for one, n in counts.items()}
    rows = sorted((release.to_json(), count, _renyi(release)) for release, count in scaled.items())
    return np.asarray(sum(count * row for _, count, row in rows))


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
    from scipy.special import gammaln, logsumexp  # type: ignore[import-untyped]

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
