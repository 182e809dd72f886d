"""Which of a silo's training records are whose client's, by the seed and by their own values alone."""

from __future__ import annotations

from typing import Self, final

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from silofl.config import Config
from silofl.errors import ConfigError, DataError
from silofl.tasks.base import SiloData, SizedDataset
from silofl.tasks.partition.base import by_shares
from silofl.training.seeding import derive

Indices = NDArray[np.int64]
SPLIT = 2**32 - 2
"""Stands for the round where a choice is of all rounds: whose a record is."""
MOST_ALPHA = 1e12
"""Beyond it shares are equal to rounding, and the distribution is not drawn."""


@final
class ClientSplit:
    """The clients of a silo, numbered from 0; some may have no record.

    Args:
        clients: int64 (n,), whose each training record is.
        count: how many clients there are.

    Attributes:
        sizes: int64 (count,), how many records each has.
    """

    def __init__(self, clients: Indices, count: int) -> None:
        self._order = np.argsort(clients, kind="stable")
        self.sizes = np.bincount(clients, minlength=count)
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        """How many clients there are."""
        return len(self.sizes)

    def records(self, client: int) -> Indices:
        """The numbers of a client's records, ascending."""
        end = int(self._ends[client])
        return self._order[end - int(self.sizes[client]) : end]

    @classmethod
    def of(cls, config: Config, data: SiloData, silo: int) -> Self | None:
        """The clients of silo `silo` by [clients]; None where silos have none.

        Raises ConfigError for fewer records, or persons, than clients, DataError where a record has no class.
        """
        clients, records = config.clients, len(data.train)
        if not clients.active:
            return None
        seed = derive(config.run.seed, silo, SPLIT)
        if clients.split == "owner":
            found = _of_owners(data, silo)
            if clients.per_round is not None and clients.per_round > len(np.unique(found)):
                raise ConfigError(
                    f"clients.per_round = {clients.per_round} is more than the persons that silo {silo} has: "
                    "lower it, or remove it, so that all train",
                    rank=silo,
                )
            return cls(found, int(found.max()) + 1)
        assert clients.per_silo is not None, "what is active has clients"
        if clients.per_silo > records:
            raise ConfigError(
                f"clients.per_silo = {clients.per_silo} is more than the training records of silo {silo}: "
                "lower it, or start fewer silos",
                rank=silo,
            )
        if clients.split == "dirichlet":
            return cls(
                unlike(_labels(data.train, silo), clients.per_silo, clients.alpha, seed), clients.per_silo
            )
        return cls(alike(records, clients.per_silo, seed), clients.per_silo)


def alike(records: int, clients: int, seed: int) -> Indices:
    """Whose each record is (n,): of every so many in a row each client has one, in an order of chance.

    A record's client depends on its place alone, so that more records at the end leave it as it is.
    """
    rows = np.tile(np.arange(clients, dtype=np.int64), (-(-records // clients), 1))
    return np.random.default_rng(seed).permuted(rows, axis=1).reshape(-1)[:records]


def unlike(labels: Indices, clients: int, alpha: float, seed: int) -> Indices:
    """Whose each record is (n,): each class is shared out by its own proportions ~ Dir(alpha).

    Hsu et al. 2019. It depends on a record's own place and class (n,), classes counted from 0.
    """
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(clients, min(alpha, MOST_ALPHA)), int(labels.max()) + 1)
    places = np.random.default_rng([seed, 1]).random(len(labels))
    return by_shares(places, shares, labels.astype(np.intp)).astype(np.int64)


def _of_owners(data: SiloData, silo: int) -> Indices:
    if data.owners is None:
        raise ConfigError(
            f'silo {silo}: clients.split = "owner" needs to know whose a record is, which the task does not '
            "tell: set data.owner_column for files, or return SiloData(train, test, owners) from "
            "data(silo, silos)",
            rank=silo,
        )
    return np.asarray(data.owners, np.int64)


def _labels(dataset: SizedDataset, silo: int) -> Indices:
    tensors = dataset.tensors if isinstance(dataset, TensorDataset) else ()
    labels = tensors[-1] if tensors else None
    if labels is None or labels.dim() != 1 or labels.is_floating_point() or int(labels.min()) < 0:
        raise DataError(
            f'silo {silo}: clients.split = "dirichlet" goes by classes, and the training data shows none: '
            "let data(silo, silos) give a TensorDataset whose last tensor has class numbers (n,), or "
            'set clients.split = "iid"',
            rank=silo,
        )
    found: Indices = labels.cpu().numpy().astype(np.int64)
    return found
