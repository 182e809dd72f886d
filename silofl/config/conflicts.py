"""Which sections contradict each other: each rule a condition and the sentence that says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.config.sections import PrivacyConfig, TrainConfig

if TYPE_CHECKING:
    from silofl.config import Config


def privacy_conflicts(config: Config) -> list[tuple[bool, str]]:
    """What is wrong with [privacy] and the sections that it leans on, each with its sentence."""
    privacy, train = config.privacy, config.train
    example, alone = privacy.unit == "example", privacy.place == "local"
    return [
        (
            (privacy.noise_multiplier is None) == (privacy.target_epsilon is None),
            "[privacy] takes its noise from one key: set privacy.noise_multiplier or privacy.target_epsilon",
        ),
        (
            privacy.place == "distributed" and config.secure.protocol == "plain",
            'privacy.place = "distributed" hides noisy parts in a secure sum, secure.protocol = "plain" '
            'shows each: choose "secagg", or privacy.place = "local"',
        ),
        (
            example and not alone and config.strategy.name != "fedsgd",
            f'privacy.unit = "example" with privacy.place = "{privacy.place}" adds up gradients at every '
            'step: set strategy.name = "fedsgd", or privacy.place = "local"',
        ),
        (
            example and alone and config.strategy.name == "fedsgd",
            'privacy.unit = "example" with privacy.place = "local" trains in each silo and '
            'strategy.name = "fedsgd" does not: set "fedavg", or privacy.place = "distributed"',
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
