"""What clients within silos do not go with: work that only a whole silo has, and keys that do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.strategies.base import Strategy
from silofl.topologies.arrangements import registry as arrangements

if TYPE_CHECKING:
    from silofl.config import Config
    from silofl.personal.base import Personal

Rule = tuple[bool, str]


def clients_rules(config: Config, strategy: Strategy, method: Personal) -> list[Rule]:
    """Each rule a condition and the sentence that says what to do."""
    clients = config.clients
    if not clients.active:
        given = [key for key in type(clients).model_fields if key in clients.model_fields_set]
        sentence = f"clients.{' and clients.'.join(given)} set and no silo has clients"
        remedy = 'set clients.per_silo or clients.split = "owner", or'
        return [
            (
                any(getattr(clients, key) is not None for key in given),
                f"{sentence}: {remedy} remove [clients]",
            ),
            (
                config.privacy.unit == "client",
                f'privacy.unit = "client" protects each client of a silo, and silos have none: {remedy} '
                'privacy.unit = "silo"',
            ),
        ]
    return [*_own_keys(config), *_of_training(config, strategy, method), *_of_privacy(config)]


def _own_keys(config: Config) -> list[Rule]:
    clients = config.clients
    several = clients.per_silo
    return [
        (
            clients.split == "owner" and several is not None,
            f'clients.per_silo = {several} and clients.split = "owner", by which each person is a client: '
            "remove one of them",
        ),
        (
            clients.split != "dirichlet" and "alpha" in clients.model_fields_set,
            f'clients.alpha is set and clients.split = "{clients.split}" reads none: remove it, or set '
            'clients.split = "dirichlet"',
        ),
        (
            several is not None and clients.per_round is not None and clients.per_round > several,
            f"clients.per_round = {clients.per_round} is more than clients.per_silo = {several}: both are of "
            "each silo; lower it, or remove it, so that all train",
        ),
    ]


def _of_training(config: Config, strategy: Strategy, method: Personal) -> list[Rule]:
    train, kind = config.train, type(strategy)
    head = "[clients] has many clients train in a silo, each anew from the shared model"
    whole = (
        kind.contribute is not Strategy.contribute
        or kind.local_init is not Strategy.local_init
        or strategy.local != "train"
        or strategy.at_start() != "nothing"
        or strategy.compared_layer() is not None
        or strategy.streaming() is not None
        or len(strategy.models) > 1
        or bool(strategy.scalars)
    )
    return [
        (
            whole,
            f'{head}, and strategy.name = "{config.strategy.name}" has a part of its own in a whole silo\'s '
            'work: set strategy.name = "fedavg", or another that means updates alone, or remove [clients]',
        ),
        (
            method.effect != "none",
            f'{head}, and personal.name = "{config.personal.name}" keeps a model of the silo\'s own: remove '
            "[personal], or [clients]",
        ),
        (
            arrangements.build(config.topology).corrects,
            f'{head}, and topology.name = "{config.topology.name}" corrects the gradients of a whole silo by '
            'what it has from its neighbours: set topology.algorithm = "dpsgd", or another without, or '
            "remove [clients]",
        ),
        (
            train.batch_norm != "averaged",
            f'{head}, and train.batch_norm = "{train.batch_norm}" keeps statistics of the silo\'s own: '
            "remove it, or [clients]",
        ),
        (
            train.keep_optimizer,
            f"{head}, and train.keep_optimizer = true carries one optimizer on from round to round: "
            "remove it",
        ),
        (
            train.seconds is not None,
            f"{head}, and train.seconds = {train.seconds} is of a silo's work: set train.epochs or "
            "train.steps",
        ),
        (
            train.precision == "float16",
            f'{head}, and train.precision = "float16" finds the scale of losses over many steps: set '
            '"bfloat16" or "full"',
        ),
        (
            train.ranks_per_silo > 1,
            f"{head}, and train.ranks_per_silo = {train.ranks_per_silo} shares out the steps of one: set "
            "it to 1",
        ),
    ]


def _of_privacy(config: Config) -> list[Rule]:
    privacy, clients = config.privacy, config.clients
    unit, of_clients = f'privacy.unit = "{privacy.unit}"', privacy.unit == "client"
    return [
        (
            privacy.samples,
            f"{unit} clips gradients of single records, and [clients] has each client take steps of its "
            'own: set privacy.unit = "client", or remove [clients]',
        ),
        (
            of_clients and clients.per_round is not None,
            f"clients.per_round = {clients.per_round} draws so many at once, and {unit} counts on a coin "
            "of each client's own: set privacy.sample_rate instead, the probability",
        ),
        (
            of_clients and clients.batched and "batched" in clients.model_fields_set,
            f"clients.batched = true and {unit}, for which each client trains by itself, so that nothing of "
            "it is in what others learn: remove clients.batched",
        ),
        (
            of_clients and privacy.neighbours == "replace-one" and clients.split == "dirichlet",
            f'{unit} with privacy.neighbours = "replace-one" replaces the records of one client by any '
            'others, which clients.split = "dirichlet" would deal to several: set clients.split = "iid" '
            'or "owner", or '
            "remove privacy.neighbours",
        ),
        (
            of_clients and privacy.neighbours == "add-remove" and clients.split != "owner",
            f'{unit} with privacy.neighbours = "add-remove" hides how many clients there are, which '
            'clients.per_silo says: set clients.split = "owner", or remove privacy.neighbours',
        ),
    ]
