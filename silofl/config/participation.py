"""What `run.participation` and `run.silos_per_round` do not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from silofl.config import Config


def participation_rules(config: Config) -> list[tuple[bool, str]]:
    """Each rule a condition and the sentence that says what to do."""
    run, privacy = config.run, config.privacy
    rate, count = run.participation, run.silos_per_round
    sampled = rate < 1
    key = f"run.silos_per_round = {count}" if count is not None else f"run.participation = {rate:g}"
    return [
        (
            sampled and count is not None,
            f"run.participation = {rate:g} and run.silos_per_round = {count} both say how many silos take "
            "part in a round: keep one",
        ),
        (
            privacy.samples and (sampled or count is not None),
            f"{key} would leave out silos, and privacy.unit = "
            f'"{privacy.unit}" counts each round in full for whoever is in one, so that epsilon would be no '
            "less: lower privacy.sample_rate instead, which amplifies, or remove it",
        ),
        (
            privacy.unit == "silo" and (sampled or count is not None),
            f'{key} is drawn by run.seed, which all silos know, and privacy.unit = "silo" is not amplified '
            "by a draw that is known: remove one of them",
        ),
    ]
