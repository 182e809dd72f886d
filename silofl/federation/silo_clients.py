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
        # Rounding, and a task that looks at whole batches, would have others' updates follow from one's data.
        'privacy.unit = "client" trains each client by itself': config.privacy.unit == "client",
        "clients.batched is false": not config.clients.batched,
        "the strategy corrects each step's gradient": corrects(strategy),
        "[prune] holds weights at zero in each step": config.prune.active,
        made.why_alone: True,
    }
    made.why_alone = next(why for why, holds in reasons.items() if holds)
    return made


def describe_clients(
    config: Config, silos: int, first: LocalClients | None, counts: Sequence[int] = ()
) -> str:
    """How many clients silos have, and how those of the first one train; empty where there are none.

    `counts` are of the silos whose data may be looked at; of persons nothing is said without.
    """
    if first is None:
        return ""
    clients, drawn = config.clients, config.clients.per_round
    count = f"{clients.per_silo} in each silo"
    counts = counts if clients.per_silo is None else [clients.per_silo] * silos
    if clients.per_silo is None:
        numbers = f", {min(counts)} to {max(counts)} in a silo" if counts else ""
        count = f"each person of a silo is one{numbers}"
    if config.privacy.unit == "client":
        rate = f"{config.privacy.sample_rate:g}"
        who = f"each in a round with probability {rate}, by a coin that no other silo learns"
    elif drawn is None or drawn == clients.per_silo:
        who = "all of which train in a round"
    else:
        whole = f" ({sum(min(drawn, one) for one in counts)} of {sum(counts)} in all silos)" if counts else ""
        who = f"of which {drawn} train in a round{whole}, drawn by run.seed"
    how = "together, by torch.func.vmap" if not first.why_alone else f"one after the other: {first.why_alone}"
    return f"{count}, {who}; they train {how}"
