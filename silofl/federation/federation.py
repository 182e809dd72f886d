"""The parts of a run that a round works with, put together once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl import config as configuration
from silofl.aggregation import registry as aggregators
from silofl.aggregation.base import Aggregator
from silofl.aggregation.registry import Sums
from silofl.aggregation.shards import slice_counts
from silofl.comm.protocol import Communicator
from silofl.comm.verdict import together
from silofl.config import Config
from silofl.federation.handshake import agree_on_model
from silofl.federation.metrics import FederationMeans
from silofl.federation.server import ServerSlice
from silofl.federation.silo import Silo, place
from silofl.strategies import registry as strategies
from silofl.strategies.base import Strategy
from silofl.tasks.base import Task


@dataclass
class Federation:
    """One rank's view of the run: its silo, its slice of the server, and the global model."""

    comm: Communicator
    config: Config
    silo: Silo
    strategy: Strategy
    aggregator: Aggregator
    server: ServerSlice
    means: FederationMeans
    global_vector: NDArray[np.floating[Any]]
    """(d,) the committed or pending global model, the same bytes on every rank after `gather`."""

    @property
    def bytes_sent_per_round(self) -> int:
        """Bytes that this rank hands to others in a round: its update, then its slice of the new model."""
        return self.aggregator.bytes_sent_per_round + gathered_bytes(
            self.aggregator.bounds, self.comm.rank, self.global_vector.itemsize
        )

    def gather(self) -> None:
        """Exchange slices so that every rank holds the whole global model; collective."""
        bounds, rank = self.aggregator.bounds, self.comm.rank
        mine = self.global_vector[bounds[rank] : bounds[rank + 1]]
        self.comm.allgather(mine, self.global_vector, slice_counts(bounds))

    def distribute(self) -> None:
        """Give every rank rank 0's global model; collective."""
        size = len(self.global_vector)
        mine = self.global_vector if self.comm.rank == 0 else self.global_vector[:0]
        self.comm.allgather(mine, self.global_vector, [size] + [0] * (self.comm.size - 1))

    def state(self) -> dict[str, Any]:
        """What this rank commits: its slice of the server and its silo's own state."""
        return {"server": self.server.state(self.global_vector), "silo": self.silo.state()}

    def close(self) -> None:
        """Release what is held; collective."""
        self.aggregator.close()

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a committed state; collective."""
        self.silo.restore(state["silo"])
        self.server.restore(state["server"], self.global_vector)
        self.gather()


def gathered_bytes(bounds: list[int], rank: int, itemsize: int) -> int:
    """Bytes that a rank sends when every rank gets its slice."""
    return (bounds[rank + 1] - bounds[rank]) * itemsize * (len(bounds) - 2)


def establish(comm: Communicator, config: Config, task: Task) -> Federation:
    """Build every rank's parts and make sure they fit together; collective.

    Rank 0's untrained model is everyone's. Raises together what any rank finds wrong.
    """
    with together(comm):
        device = place(config.train.device, comm.local_rank)
        silo = Silo(config, task, comm.rank, comm.size, device)
        strategy = strategies.build(config.strategy)
    agree_on_model(comm, silo.model)
    size, dtype = silo.model.size, silo.model.wire_dtype
    sums = Sums(size, dtype, silo.samples, config.run.seed, configuration.digest(config))
    aggregator = aggregators.build(comm, config.secure, sums)
    start, stop = aggregator.bounds[comm.rank : comm.rank + 2]
    server = ServerSlice(strategy, start, stop, silo.model.trainable, dtype)
    federation = Federation(
        comm, config, silo, strategy, aggregator, server, FederationMeans(comm, aggregator), silo.initial()
    )
    federation.distribute()
    return federation
