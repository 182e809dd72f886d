"""Thresholds: the default one, and how many deaths, colluding silos and lying silos any of them bears."""

from __future__ import annotations

from dataclasses import dataclass

from silofl.config import SecureConfig
from silofl.crypto.graph import Bounds, colluding_openers

SMALLEST_RAISED = 5
"""Silos from which on an odd number has one more than a majority and can still bear a death."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a round bears: how many silos may each of these be, the others being honest and alive."""

    deaths: int
    colluders: int
    """Silos that pool all they saw and learn nothing but what the sum, less their own vectors, tells."""
    liars: int
    """Silos that vote for two sets of survivors, while the others are split in two that hear nothing of each
    other, and still cannot open both secrets of a silo."""


def default_threshold(silos: int) -> int:
    """The smallest t with 2t - silos > 1, which bears one double voter; for three silos 2.

    Three silos with t = 3 would void a round when one of them dies after its words are in the sum.
    """
    majority = silos // 2 + 1
    return majority + 1 if silos % 2 and silos >= SMALLEST_RAISED else majority


def threshold_of(secure: SecureConfig, silos: int) -> int:
    """The threshold of a run of `silos`: the configured one, or the default."""
    return secure.threshold or default_threshold(silos)


def fewest_of(secure: SecureConfig, silos: int) -> int:
    """The fewest silos that a secure sum of a run of `silos` may be over."""
    return max(threshold_of(secure, silos), 2 if secure.allow_two else 3)


def tolerance(silos: int, threshold: int, fewest: int) -> Tolerance:
    """What masked sums of `silos` bear with this threshold t, over `fewest` silos at least.

    Deaths: silos - fewest. Colluders: t - 1, for t shares open a secret. Liars: to open both secrets of a
    silo, each half of the h honest silos must reach t votes with the k that vote twice. The best split has
    h/2 in each, so k liars cannot as long as (silos - k) + 2k < 2t: k <= 2t - silos - 1.

    In the sparse graph of many silos fewer shares open a secret: there its bounds say how many may die or
    collude. Liars are as many: with fewer votes than t on one side that side reveals nothing.
    """
    deaths, colluders, bounds = max(0, silos - fewest), threshold - 1, Bounds()
    sparse = colluding_openers(silos)
    if sparse is not None:
        deaths, colluders = min(deaths, int(silos * bounds.dropping)), sparse - 1
    return Tolerance(deaths, colluders, min(2 * threshold - silos - 1, colluders))


def describe_threshold(secure: SecureConfig, silos: int) -> str:
    """How many deaths, colluders and liars the masked sums of a run of `silos` bear, in one line."""
    threshold = threshold_of(secure, silos)
    borne = tolerance(silos, threshold, fewest_of(secure, silos))
    sparse = " by the bounds of the neighbour graph" if colluding_openers(silos) is not None else ""
    return (
        f"{_count(borne.deaths, 'death')}, {borne.colluders} colluding (they learn the sum less their own "
        f"and nothing more){sparse}, {_count(borne.liars, 'liar')} voting twice on a split network: "
        f"the threshold is {threshold} of {silos} silos"
    )


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
