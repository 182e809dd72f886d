"""Which clients train in a round, drawn by the run's seed; under [privacy] secret coins say it instead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silofl.training.seeding import derive

CLIENTS = 1
"""Tells the draw of clients from a round's other random choices."""


def drawn_clients(
    seed: int, silo: int, round_number: int, clients: NDArray[np.int64], count: int | None
) -> NDArray[np.int64]:
    """`count` of the `clients` of a silo, ascending, without replacement; all where there are no more."""
    if count is None or count >= len(clients):
        return clients
    rng = np.random.default_rng([derive(seed, silo, round_number), CLIENTS])
    return np.sort(rng.choice(clients, count, replace=False))
