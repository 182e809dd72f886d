"""The sums of slices that were collected, kept until they are used: a lost server's are found with others."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.shards import Shards
from silofl.comm.protocol import Communicator
from silofl.errors import StoppedError


class Results(Protocol):
    """Each rank's result, as `reduce_scatter.Exchange` has it."""

    result: NDArray[Any]
    """This rank's."""

    def result_of(self, rank: int) -> NDArray[Any] | None:
        """Another rank's, even when it is lost; None where only that rank can read it."""


class KeptSums:
    """What every rank of a communicator collected for the slices that it serves.

    Args:
        comm: the ranks that collected.
        shards: which rank serves which slice, and which keep replicas.
        results: of the ranks, the slices of each one after another.
        kept: how many vectors there are of each slice, (kept, k); None: one, (k,).
    """

    def __init__(self, comm: Communicator, shards: Shards, results: Results, kept: int | None) -> None:
        self._comm, self._shards, self._members = comm, shards, comm.members
        self._results, self._kept = results, kept
        self._offsets = shards.owned_ranges(comm.members)
        self._copies: dict[int, NDArray[Any]] = {}

    def of(self, index: int) -> NDArray[Any]:
        """The sum of one slice (k,), or what is kept of it (kept, k): served by this rank, or copied to it.

        Raises StoppedError where neither it nor anybody else has it any more.
        """
        copy = self._copies.get(index)
        if copy is not None:
            return copy
        result = self._served(index)
        if result is None:
            raise StoppedError(
                f"the sums of slice {index} are lost with the silos that kept them, and may not be "
                "collected again from fewer; --resume repeats the round with all silos",
                rank=self._comm.rank,
            )
        return result

    def hold(self) -> None:
        """Have the slices that this rank keeps replicas of in memory of its own, which no other rank writes.

        Not collective; after the collection, with another collective between them, so that all sums are
        complete.
        """
        silo = self._members[self._comm.rank]
        for index in range(len(self._shards.members)):
            if silo in self._shards.replicas(index) and silo != self._shards.server(index, self._members):
                shared = self._served(index)
                if shared is None:  # it came as a message
                    continue
                if index not in self._copies:
                    self._copies[index] = np.empty_like(shared)
                np.copyto(self._copies[index], shared)

    def share(self) -> None:
        """Where results lie in private memory, send copies to the ranks that would take over. Collective."""
        comm, shards = self._comm, self._shards
        far = [self._results.result_of(rank) is None for rank in range(comm.size)]
        if not any(far) or not (shards.replica_count or shards.checkers):
            return
        mine = shards.slices_of(self._members[comm.rank], self._members)
        parcels = [
            b"".join(self.of(index).tobytes() for index in mine if apart and member in shards.replicas(index))
            for member, apart in zip(self._members, far, strict=True)
        ]
        received = comm.alltoall_bytes(parcels)
        for member in [member for member, apart in zip(self._members, far, strict=True) if apart]:
            parcel = received[self._members.index(member)]
            words = np.frombuffer(parcel, self._results.result.dtype)
            for index in shards.slices_of(member, self._members):
                if self._members[comm.rank] in shards.replicas(index):
                    length = (self._kept or 1) * (shards.bounds[index + 1] - shards.bounds[index])
                    self._copies[index], words = self.by_row(words[:length]), words[length:]

    def by_row(self, result: NDArray[Any]) -> NDArray[Any]:
        """A rank's result with a row for each vector that is kept."""
        return result if self._kept is None else result.reshape(self._kept, result.size // self._kept)

    def _served(self, index: int) -> NDArray[Any] | None:
        """The sum of one slice in its server's memory; None where this rank cannot read that."""
        server = self._members.index(self._shards.server(index, self._members))
        result = self._results.result_of(server)
        if result is None:
            return None
        first, last = self._shards.span(index)
        return self.by_row(result)[..., first - self._offsets[server] : last - self._offsets[server]]
