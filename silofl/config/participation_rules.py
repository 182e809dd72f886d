"""What `run.participation` and `run.silos_per_round` do not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from silofl.config import Config


def participation_rules(config: Config) -> list[tuple[bool, str]]:
    """Each rule a condition and the sentence that says what to do."""
    run, privacy = config.run, config.privacy
    rate, count = run.participation, run.silos_per_round
    sampled, renyi = rate < 1, privacy.accountant == "rdp" or privacy.mechanism == "skellam"
    key = f"run.silos_per_round = {count}" if count is not None else f"run.participation = {rate:g}"
    return [
        (
            sampled and count is not None,
            f"run.participation = {rate:g} and run.silos_per_round = {count} both say how many silos take "
            "part in a round: keep one",
        ),
        (
            privacy.sampled and (sampled or count is not None),
            f"{key} would leave out silos, and privacy.unit = "
            f'"{privacy.unit}" counts each round in full for who is in one, so that epsilon would be no '
            "less: lower privacy.sample_rate instead, which amplifies, or remove it",
        ),
        (
            privacy.unit == "silo" and count is not None,
            f'{key} draws that many at once, and privacy.unit = "silo" counts on a coin of each silo\'s own: '
            "set run.participation instead, the probability",
        ),
        (
            privacy.unit == "silo" and sampled and privacy.clip_quantile is not None,
            f"{key} leaves updates out by secret coins, and privacy.clip_quantile = {privacy.clip_quantile} "
            "counts the norms of all: remove one of them",
        ),
        (
            privacy.unit == "silo" and sampled and config.train.keep_optimizer,
            f"{key} has silos train in rounds that do not count, so that nobody sees which those are, and "
            "train.keep_optimizer = true would carry over what they did there: remove one of them",
        ),
        (
            privacy.unit == "silo" and sampled and config.strategy.name == "moon",
            f'{key} leaves updates out by secret coins, and strategy.name = "moon" takes less time in a silo '
            "that was never drawn, which tells its coins: choose another strategy, or remove it",
        ),
        (
            privacy.unit == "silo" and sampled and privacy.neighbours == "replace-one" and renyi,
            f'{key} with privacy.neighbours = "replace-one" has no Renyi divergence that is known: set '
            'privacy.accountant to "pld" and privacy.mechanism to "discrete-gaussian", or remove it',
        ),
    ]
