"""The clients of one silo, by the configuration and the strategy, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

from silofl.config import Config
from silofl.config.conflicts import corrects
from silofl.strategies.base import Strategy
from silofl.tasks.base import Task
from silofl.tasks.user_code import UserCode
from silofl.training.attributes import Attributes
from silofl.training.batches import Batches
from silofl.training.clients.client_split import ClientSplit
from silofl.training.clients.local_clients import LocalClients
from silofl.training.flat import FlatModel
from silofl.training.trainer import LocalTrainer


def clients_of(
    config: Config,
    task: Task,
    trainer: LocalTrainer,
    model: FlatModel,
    attributes: Attributes,
    train: Batches,
    code: UserCode,
    strategy: Strategy,
    split: ClientSplit | None,
) -> LocalClients | None:
    """Those of the silo that `code` is of; None where it trains as a whole."""
    if split is None:
        return None
    made = LocalClients(
        *(task, model, train, config.train, split),
        seed=config.run.seed,
        silo=code.silo,
        code=code,
        schedule=trainer.optimizer.schedule,
        per_round=config.clients.per_round,
        by_samples=strategy.sends["update"] == "samples",
        trainer=trainer,
        attributes=attributes,
        isolated=config.privacy.unit == "client",
    )
    reasons = {
        "clients.batched is false": not config.clients.batched,
        "the strategy corrects each step's gradient": corrects(strategy),
        "[prune] holds weights at zero in each step": config.prune.active,
        made.why_alone: True,
    }
    made.why_alone = next(why for why, holds in reasons.items() if holds)
    return made


def describe_clients(config: Config, counts: Sequence[int], first: LocalClients | None) -> str:
    """How many clients the silos have, and how those of the first one train; empty where there are none."""
    if first is None:
        return ""
    few, many = min(counts), max(counts)
    count = f"{few} in each silo" if few == many else f"{few} to {many} in a silo, one for each person"
    drawn, rate = config.clients.per_round, config.privacy.sample_rate
    if config.privacy.unit == "client":
        who = f"each in a round with probability {rate:g}, by a coin that no other silo learns"
    elif drawn is None or drawn >= many:
        who = "all of which train in a round"
    else:
        whole = sum(min(drawn, one) for one in counts)
        who = f"of which {drawn} train in a round ({whole} of {sum(counts)} in all silos), drawn by run.seed"
    how = "together, by torch.func.vmap" if not first.why_alone else f"one after the other: {first.why_alone}"
    return f"{count}, {who}; they train {how}"
