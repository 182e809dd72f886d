"""Which sections contradict each other: each rule a condition and the sentence that says what to do.

Those of [secure] are where its protocols are: `silofl.federation.secure_conflicts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from silofl.config.sections import PrivacyConfig, TrainConfig
from silofl.privacy.places import PLACES
from silofl.strategies.base import Strategy
from silofl.strategies.registry import STRATEGIES, build

if TYPE_CHECKING:
    from silofl.config import Config

Rule = tuple[bool, str]


def found(config: Config) -> Iterator[str]:
    """What is wrong between the sections, a sentence each."""
    strategy = build(config.strategy)
    rules = strategy_rules(config, strategy)
    if config.privacy.unit != "none":
        rules += release_rules(config, strategy) + privacy_rules(config, strategy)
    return (sentence for wrong, sentence in rules if wrong)


def corrects(strategy: Strategy) -> bool:
    """Whether a strategy changes the gradients of local steps."""
    return type(strategy).correct is not Strategy.correct


def strategy_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """[strategy] and how silos train."""
    refusal = strategy.refusal(config.train)
    return [
        (refusal is not None, refusal or ""),
        (
            corrects(strategy) and config.train.optimizer == "SparseAdam",
            'train.optimizer = "SparseAdam" takes sparse gradients alone, and strategy.name = '
            f'"{config.strategy.name}" adds values everywhere: choose another, such as "SGD"',
        ),
    ]


def release_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """[privacy] bounds and hides one vector, unless all that is sent is made of noisy steps."""
    privacy, name = config.privacy, config.strategy.name
    noisy_steps = privacy.unit == "example" and PLACES[privacy.place].alone
    remedy = 'privacy.place = "local"' if privacy.unit == "example" else 'strategy.name = "fedavg"'
    others = [kind for kind in strategy.sends if kind != "update"]
    by_round = [kind for kind, weighting in strategy.sends.items() if weighting == "round"]
    return [
        (
            bool(others) and not noisy_steps,
            f'strategy.name = "{name}" sends {" and ".join(others)} beside the update, which privacy.unit = '
            f'"{privacy.unit}" with privacy.place = "{privacy.place}" does not cover: set {remedy}',
        ),
        (
            strategy.needs == "rows" and not PLACES[privacy.place].alone,
            f'strategy.name = "{name}" needs every silo\'s own update, and privacy.place = "{privacy.place}" '
            'shows noisy sums alone: set privacy.place = "local"',
        ),
        (
            bool(strategy.scalars or by_round),
            f'strategy.name = "{name}" tells {" and ".join([*strategy.scalars, *by_round[:1]])} of each '
            'silo\'s training without noise: set strategy.name = "fedavg", or privacy.unit = "none"',
        ),
    ]


def privacy_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """[privacy] and the sections that it leans on."""
    privacy, train = config.privacy, config.train
    place = PLACES[privacy.place]
    example, alone = privacy.unit == "example", place.alone
    trains = strategy.local == "train"
    gradients = " or ".join(f'"{name}"' for name, kind in STRATEGIES.items() if kind.local == "gradient")
    return [
        (
            (privacy.noise_multiplier is None) == (privacy.target_epsilon is None),
            "[privacy] takes its noise from one key: set privacy.noise_multiplier or privacy.target_epsilon",
        ),
        (
            example and not alone and trains,
            f'privacy.unit = "example" with privacy.place = "{privacy.place}" adds up gradients at every '
            f'step: set strategy.name = {gradients}, or privacy.place = "local"',
        ),
        (
            example and alone and not trains,
            f'privacy.unit = "example" with privacy.place = "{privacy.place}" trains in each silo and '
            f'strategy.name = "{config.strategy.name}" does not: set "fedavg", or privacy.place = '
            '"distributed"',
        ),
        (
            example and train.full_batch,
            "train.full_batch samples nothing and privacy counts on Poisson sampling: remove it and set "
            "privacy.sample_rate (1 for all records)",
        ),
        (
            example and train.batch_size != TrainConfig().batch_size,
            f"train.batch_size = {train.batch_size} takes batches of one size and privacy counts on Poisson "
            "sampling: remove it and set privacy.sample_rate, the part of the records in a step",
        ),
        (
            privacy.clip_quantile is not None and (example or alone),
            "privacy.clip_quantile follows the norms of silos' updates, counted together: it goes with "
            'privacy.unit = "silo" and a place other than "local"; remove it',
        ),
        (
            example and train.clip_norm is not None,
            "train.clip_norm clips sums of gradients, which bounds no example: use privacy.clip_norm",
        ),
        (
            not example and privacy.sample_rate != PrivacyConfig().sample_rate,
            f"privacy.sample_rate = {privacy.sample_rate:g} samples examples and privacy.unit is "
            '"silo": remove it',
        ),
    ]
