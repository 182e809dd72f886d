"""Lower bounds on epsilon from one run, in which each of many canaries was there or not by a fair coin.

Two bounds are made of what an attacker guesses of the coins. `p_value` assumes nothing of the mechanism but
what is claimed (Steinke, Nasr, Jagielski 2023, "Privacy auditing with one (1) training run", theorem 5.2): it
is valid and loose, for a claim at one delta says little of how surely canaries are guessed. `by_accuracy`
counts each canary as a trial of its own, as it is where canaries lie in coordinates of their own and noise is
independent from one to the next, and holds the rate of right guesses to the claim at every delta.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from silofl.privacy.accountant import Method, epsilon
from silofl.privacy.releases import LEAST_VARIANCE, Release

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

MOST = 100.0
"""Epsilon beyond which nothing is looked for."""
PARTS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Of the canaries those that are guessed, the surest; fixed beforehand, each tried at a part of the error."""
DELTAS = (1e-3, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""At which claims are held to the rate of right guesses, besides the claim's own."""
_LARGEST, _HALVINGS = 32.0, 9


def p_value(canaries: int, guesses: int, right: int, eps: float, delta: float) -> float:
    """The probability with which at most so many guesses are right if epsilon is `eps` at `delta`, bounded.

    Theorem 5.2 of Steinke et al. 2023, for guesses that are certain: with q = e^eps / (e^eps + 1) and W from
    Binomial(guesses, q), it is P[W >= right] + 2 canaries delta max over i of P[right > W >= right - i] / i.

    Args:
        canaries: how many coins were thrown.
        guesses: of how many the attacker told the side; it abstains of the others.
        right: how many of these it got.
        eps, delta: the claim.
    """
    from scipy.stats import binom  # type: ignore[import-untyped]

    if not 0 <= right <= guesses <= canaries:
        raise ValueError(f"{right} of {guesses} guesses on {canaries} canaries")
    q = 1 / (1 + math.exp(-eps))
    above = float(binom.sf(right - 1, guesses, q))
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, q))
    alpha = float(np.max(below / np.arange(1, right + 1), initial=0.0))
    return min(1.0, above + 2 * canaries * delta * alpha)


def surest(scores: Floats, there: Bools, guesses: int) -> int:
    """How many of so many guesses are right: of the largest |scores|, positive ones as being there."""
    order = np.argsort(-np.abs(scores), kind="stable")[:guesses]
    return int(np.count_nonzero((scores[order] > 0) == there[order]))


def without_assumptions(scores: Floats, there: Bools, delta: float, error: float) -> tuple[float, int, int]:
    """What epsilon at `delta` is at least, but with probability `error`; of how many guesses, how many right.

    Args:
        scores: (m,), above 0 where a canary seems to be there, the surer the larger.
        there: (m,), the coins.
    """
    best, each = (0.0, 0, 0), error / len(PARTS)
    for part in PARTS:
        guesses = max(1, round(part * len(scores)))
        right = surest(scores, there, guesses)
        found = _largest(lambda eps, n=guesses, v=right: p_value(len(scores), n, v, eps, delta) <= each)  # type: ignore[misc]
        best = max(best, (found, guesses, right))
    return best


def _largest(refuted: Callable[[float], bool]) -> float:
    """The largest epsilon that is refuted, to 0.1%; 0 where none is."""
    low, high = 0.0, MOST
    if not refuted(0.0):
        return 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def accuracy(scores: Floats, there: Bools, error: float) -> float:
    """The rate of right guesses on a canary is at least this (Clopper, Pearson 1934), but with `error`."""
    from scipy.stats import beta

    right = surest(scores, there, len(scores))
    return float(beta.ppf(error, right, len(scores) - right + 1)) if right else 0.0


def refutes(least: float, spent: Mapping[Release, int], delta: float, method: Method) -> bool:
    """Whether guesses are right more often than releases allow.

    Of a canary that is there or not by a fair coin at most (e^eps + delta) / (e^eps + 1) are guessed right
    (Kairouz, Oh, Viswanath 2015, theorem 2.1), at every delta with its epsilon.
    """
    for at in (delta, *DELTAS):
        wrong = (1 - at) / (1 + math.exp(min(epsilon(spent, at, method), 700.0)))
        if least > 1 - wrong:
            return True
    return False


def by_accuracy(least: float, spent: Mapping[Release, int], delta: float, method: Method) -> float:
    """Epsilon at `delta` of releases with the most noise, of the same kind, that guesses do not refute."""
    quiet, loud = 1 / _LARGEST, _LARGEST
    if not refutes(least, with_noise(spent, loud), delta, method):
        return 0.0
    for _ in range(_HALVINGS):
        middle = math.sqrt(quiet * loud)
        refuted = refutes(least, with_noise(spent, middle), delta, method)
        quiet, loud = (quiet, middle) if refuted else (middle, loud)
    return epsilon(with_noise(spent, loud), delta, method)


def with_noise(spent: Mapping[Release, int], times: float) -> dict[Release, int]:
    """The releases with noise of so many times the standard deviation."""
    result = Counter[Release]()
    for release, count in spent.items():
        noise, variance = release.noise_multiplier * times, release.variance * times**2
        if release.mechanism == "discrete-gaussian":
            variance = max(variance, LEAST_VARIANCE)
        result[replace(release, noise_multiplier=noise, variance=variance)] += count
    return dict(result)
