"""What sums that open without all silos do not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.personal import registry as methods
from silofl.strategies.base import Strategy
from silofl.topologies.arrangements.registry import build

if TYPE_CHECKING:
    from silofl.config import Config


def buffering_rules(config: Config, strategy: Strategy) -> list[tuple[bool, str]]:
    """Each rule a condition and the sentence that says what to do."""
    if build(config.topology).buffering(1) is None:
        return []
    key, run, train = f'topology.name = "{config.topology.name}"', config.run, config.train
    draws = "run.participation" if run.participation < 1 else "run.silos_per_round"
    name = f'strategy.name = "{config.strategy.name}"'
    return [
        (
            config.privacy.unit != "none",
            f"{key} adds up silos' updates as they arrive, and privacy.unit = "
            f'"{config.privacy.unit}" counts noise and releases of rounds in which every silo takes part: '
            'set topology.name = "sharded", or remove [privacy]',
        ),
        (
            run.participation < 1 or run.silos_per_round is not None,
            f"{key} has those silos in a round that have trained, and {draws} draws others: remove it",
        ),
        (
            _has_more(strategy),
            f"{key} adds up changes of one model that no silo keeps anything of, and {name} "
            'has more than that: set strategy.name = "fedavg"',
        ),
        (
            methods.build(config.personal).effect != "none",
            f'{key} trains one model while rounds go on, and personal.name = "{config.personal.name}" trains '
            "another beside it: remove [personal]",
        ),
        (
            train.batch_norm != "averaged",
            f'{key} evaluates on a copy of the model, and train.batch_norm = "{train.batch_norm}" keeps '
            "statistics in each silo's own: remove it",
        ),
        (
            train.ranks_per_silo > 1,
            f"{key} trains in a thread of each rank, and train.ranks_per_silo = {train.ranks_per_silo} has "
            "several train together: remove it",
        ),
        (
            config.prune.active,
            f"{key} has silos train on models of several rounds, and [prune] leaves them other weights in "
            "each: remove one of them",
        ),
        (
            config.topology.model_dump().get("method") == "fedasync" and strategy.local != "train",
            f'topology.method = "fedasync" mixes trained models, and {name} trains none: set '
            'topology.method = "fedbuff"',
        ),
    ]


def _has_more(strategy: Strategy) -> bool:
    """Whether there is more of it than a mean of changes to one model, and a server's step."""
    return (
        strategy.shared != ("model",)
        or tuple(strategy.sends) != ("update",)
        or bool(strategy.scalars)
        or strategy.local == "masks"
        or strategy.streaming() is not None
        or type(strategy).local_init is not Strategy.local_init
    )
