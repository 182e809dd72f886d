"""How much noise a target needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from silofl.errors import ConfigError
from silofl.privacy.accountant import Method, epsilon, why_infinite
from silofl.privacy.releases import Release, TooCoarseError

LEAST_NOISE = 0.01
MOST_NOISE = 1e6
PRECISION = 1e-3
"""The noise multiplier found is at most this part above the least one."""


def noise_multiplier_for(
    target_epsilon: float,
    delta: float,
    make_releases: Callable[[float], Mapping[Release, int]],
    method: Method,
) -> float:
    """The least noise multiplier, to 0.1% and never below, with which a run ends at or below the target.

    `make_releases` gives what a run with that noise multiplier shows; one at which the accountant finds
    discrete noise too coarse is taken for too little noise, and one that it refuses for too much. ConfigError
    for a target that cannot be reached.
    """
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise ConfigError(f"privacy.target_epsilon is {target_epsilon}; it must be a number above 0")

    refused: dict[float, ConfigError] = {}

    def too_little(noise: float) -> bool:
        try:
            return epsilon(_made(make_releases, noise, refused), delta, method) > target_epsilon
        except TooCoarseError:
            return True

    low, high = LEAST_NOISE, LEAST_NOISE
    while too_little(high):
        if high == MOST_NOISE:
            releases = make_releases(MOST_NOISE)
            raise ConfigError(_unreachable(target_epsilon, delta, MOST_NOISE, releases, method))
        low, high = high, min(4 * high, MOST_NOISE)
    while high > low * (1 + PRECISION):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if too_little(middle) else (low, middle)
    if high in refused:  # more noise than fits, and `low` is the most that does
        if low in refused:
            raise refused[low]
        raise ConfigError(_unreachable(target_epsilon, delta, low, make_releases(low), method))
    return high


def _made(
    make_releases: Callable[[float], Mapping[Release, int]], noise: float, refused: dict[float, ConfigError]
) -> Mapping[Release, int]:
    """What a run shows; nothing where it is refused, which is noted."""
    try:
        return make_releases(noise)
    except TooCoarseError:
        raise
    except ConfigError as error:
        refused[noise] = error
        return {}


def _unreachable(
    target: float, delta: float, noise: float, releases: Mapping[Release, int], method: Method
) -> str:
    head = f"privacy.target_epsilon = {target:g} cannot be reached"
    reached = epsilon(releases, delta, method)
    if math.isinf(reached):
        return f"{head}: with the most noise there can be {why_infinite(releases, delta)}"
    return (
        f"{head}: the most noise there can be, of multiplier {noise:.3g}, gives epsilon {reached:.3g} at "
        f"delta {delta:g}; raise the target or delta, train fewer rounds, or lower the sample rate"
    )
