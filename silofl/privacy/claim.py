"""What a run promises, in words: unit, neighbours, epsilon, delta, and against whom."""

from __future__ import annotations

import math
from dataclasses import dataclass

from silofl.config import PrivacyConfig
from silofl.config.neighbours import IN_WORDS
from silofl.privacy.places import PLACES

NOTHING = "none: this configuration adds no noise, so nothing bounds what the model reveals"
"""Of a run without [privacy]."""


@dataclass(frozen=True)
class Epsilons:
    """Epsilon for each observer; infinite where none can be told."""

    observer: float
    """For who sees the models that are released, or the wire, and is no silo."""
    silos: float | None
    """For a fellow silo, or `colluding` of them, who know their own noise; None where nothing bounds it."""


def neighbours(privacy: PrivacyConfig) -> str:
    """Which data sets are hard to tell apart."""
    return f"{privacy.neighbours}: {IN_WORDS[privacy.unit, privacy.neighbours]}{_institutions(privacy)}"


def _institutions(privacy: PrivacyConfig) -> str:
    """In how many institutions a patient may be and is still one."""
    if privacy.unit != "patient":
        return ""
    most = privacy.institutions_per_patient
    if most == 1:
        return "; a patient of two institutions counts as two"
    return f"; a patient of up to {most} institutions is one"


def fellows(privacy: PrivacyConfig) -> int:
    """How many silos' noise a fellow silo, or those who pool with it, know in a sum."""
    return max(1, privacy.colluding)


def fellow_silos(privacy: PrivacyConfig) -> str:
    """The silos against which a bound is told, in words."""
    if PLACES[privacy.place].alone:
        return "all other silos together"
    many = fellows(privacy)
    return "a silo that knows its own noise" if many == 1 else f"{many} silos that pool what they know"


def claim(privacy: PrivacyConfig, bound: str, noise: str) -> str:
    """The whole claim; `bound` says epsilon, delta, when, and against whom."""
    return (
        f"every {privacy.unit} ({neighbours(privacy)}), {privacy.place} {privacy.mechanism} {noise}, {bound}"
    )


def of_statistics(privacy: PrivacyConfig) -> str:
    """What `claim` says of noise on statistics of columns, behind that of rounds."""
    return f", and of multiplier {privacy.standardize_noise_multiplier:.4g} once on statistics of columns"


def of_coins(participation: float) -> str:
    """What `claim` says of silos that draw for themselves whether they take part; empty where all do."""
    return f", each silo in a round with probability {participation:g}" if participation < 1 else ""


def bound(privacy: PrivacyConfig, spent: Epsilons, until: str) -> str:
    """`epsilon 2.6 against who sees the model, epsilon 3 against a silo ..., at delta 1e-05 after ...`."""
    if spent.silos is None:
        silos = "none against a rank that serves the sum, or a slice of it, and sees that without noise"
    else:
        silos = f"{_number(spent.silos)} against {fellow_silos(privacy)}"
    observer = f"{_number(spent.observer)} against who sees the model"
    return f"{observer}, {silos}, at delta {privacy.delta:g} {until}"


def outside(privacy: PrivacyConfig, *, each_silo: bool) -> str:
    """Which records no epsilon covers although they are shown; empty where there are none.

    `each_silo`: whether every silo's own metrics are shown.
    """
    if privacy.unit == "none" or privacy.metrics == "none":
        return ""
    whose = "of every silo by itself (run.share_silo_metrics)" if each_silo else "of all silos together"
    how = 'are shown without noise (privacy.metrics = "exact")'
    return f"the held-out records of every silo: metrics {whose} {how}"


def foretold(privacy: PrivacyConfig, *, statistics: bool, participation: float = 1.0) -> str:
    """The claim before models and data are there: with a noise multiplier, epsilon is not known yet.

    `statistics`: whether those of columns are shown, too; `participation`: of a silo in a round.
    """
    if privacy.unit == "none":
        return NOTHING
    place = PLACES[privacy.place]
    if not place.holds_against_silos or (place.needs_private_sum and not privacy.colluding):
        whom = "who sees the model, and no silo"
    else:
        whom = f"who sees the model, and against {fellow_silos(privacy)}"
    if privacy.target_epsilon is not None:
        epsilon, noise = f"epsilon at most {privacy.target_epsilon:g}", "noise"
    else:
        epsilon, noise = "the epsilon of its first lines", f"noise of multiplier {privacy.noise_multiplier:g}"
    noise += of_coins(participation)
    if statistics:
        noise += of_statistics(privacy)
    return claim(privacy, f"{epsilon} at delta {privacy.delta:g} against {whom}", noise)


def _number(epsilon: float) -> str:
    return f"epsilon {epsilon:.4g}" if math.isfinite(epsilon) else "no epsilon that can be told"
