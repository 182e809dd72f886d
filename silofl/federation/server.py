"""This rank's part of the server: slices of the strategy's state, its own and copies of its neighbours'."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.shards import Shards
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.protocol import Communicator
from silofl.errors import StoppedError
from silofl.strategies.base import State, Strategy

Vector = NDArray[np.floating[Any]]


class Server:
    """Steps slices of the global vector; the first `trainable` values of the whole are parameters.

    Buffers such as BatchNorm statistics lie behind the parameters. They are averaged: the strategy's
    learning rate and momentum do not touch them. Of each slice that this rank would take over it keeps the
    state, too. `number` is this rank's; one that is not among `shards.members` has no state.
    """

    def __init__(
        self, strategy: Strategy, shards: Shards, number: int, trainable: int, dtype: np.dtype[Any]
    ) -> None:
        self._strategy, self._trainable, self._dtype = strategy, trainable, dtype
        self._number = number
        self.shards = shards
        self._states = {index: self._fresh(index) for index in self._held()}
        self._names = sorted(strategy.init(0, dtype))

    def resharded(self, shards: Shards) -> Server:
        """A server of the same strategy and rank over other shards, with fresh state."""
        return Server(self._strategy, shards, self._number, self._trainable, self._dtype)

    def step(self, index: int, values: Vector, mean: Vector) -> tuple[Vector, State]:
        """The new values of a slice and its new state, from its old values and the mean update.

        Changes neither `values` nor this server: see `accept`.
        """
        after = values.copy()
        count = self._count(index)
        state = self._strategy.step(self._state_of(index), after[:count], mean[:count])
        after[count:] += mean[count:]
        return after, state

    def accept(self, states: dict[int, State]) -> None:
        """Take up new states of slices."""
        self._states.update(states)

    def replicate(self, comm: Communicator, states: dict[int, State]) -> dict[int, State]:
        """Hand copies of new states to who keeps them; what this rank gets to keep. Collective."""
        if not self._names or not self.shards.replica_count:
            return {}
        parcels = [
            b"".join(
                state[name].tobytes()
                for index, state in sorted(states.items())
                if member in self.shards.replicas(index)
                for name in self._names
            )
            for member in comm.members
        ]
        kept: dict[int, State] = {}
        for member, parcel in zip(comm.members, comm.alltoall_bytes(parcels), strict=True):
            values = np.frombuffer(parcel, self._dtype)
            for index in self.shards.slices_of(member, comm.members):
                if self._number in self.shards.replicas(index) and member != self._number:
                    count = self._count(index)
                    kept[index] = {
                        name: values[place * count : (place + 1) * count].copy()
                        for place, name in enumerate(self._names)
                    }
                    values = values[len(self._names) * count :]
        return kept

    def state(self, global_vector: Vector) -> dict[str, Any]:
        """What this rank commits, as views: its own slice of the model and of the strategy's state."""
        index = self.shards.members.index(self._number)
        start, stop = self.shards.span(index)
        return {"slice": global_vector[start:stop], "strategy": dict(self._states[index])}

    def gather_full(self, comm: Communicator, holders: tuple[int, ...]) -> dict[str, Vector]:
        """The strategy's whole state, from the slices that `holders`, who are all here, serve. Collective.

        Raises StoppedError, on every rank, where a slice is lost with all who kept copies of it.
        """
        served = {member: self.shards.slices_of(member, holders) for member in holders}
        mine = served.get(self._number, [])
        with raise_on_all_ranks(comm):
            for index in mine if self._names else []:
                self._state_of(index)
        return {
            name: gather_parts(
                comm,
                [self._state_of(index)[name] for index in mine],
                [sum(map(self._count, served.get(member, []))) for member in comm.members],
                self._dtype,
            )
            for name in self._names
        }

    def load_full(self, whole: dict[str, Vector]) -> None:
        """Cut this rank's slices, and those that it keeps, out of the whole state."""
        for index in self._held():
            start = self.shards.bounds[index]
            self._states[index] = {
                name: values[start : start + self._count(index)].copy() for name, values in whole.items()
            }

    def load_own(self, state: State) -> None:
        """Take up a committed state of this rank's own slice."""
        self._states[self.shards.members.index(self._number)] = state

    def _state_of(self, index: int) -> State:
        if index not in self._states:
            raise StoppedError(
                f"the server's state of slice {index} is lost with the silos that kept it; "
                "--resume goes on from the last committed round"
            )
        return self._states[index]

    def _held(self) -> list[int]:
        """Slices whose state this rank has: the one it serves, and those it keeps copies of."""
        shards = self.shards
        return [
            index
            for index, member in enumerate(shards.members)
            if member == self._number or self._number in shards.replicas(index)
        ]

    def _fresh(self, index: int) -> State:
        return self._strategy.init(self._count(index), self._dtype)

    def _count(self, index: int) -> int:
        """How many values of a slice are parameters."""
        start, stop = self.shards.span(index)
        return min(max(self._trainable - start, 0), stop - start)


def gather_parts(comm: Communicator, mine: list[Vector], counts: list[int], dtype: np.dtype[Any]) -> Vector:
    """Concatenate every rank's parts, `counts` values a rank, in rank order; collective."""
    whole: Vector = np.empty(sum(counts), dtype)
    comm.allgather(np.concatenate([np.empty(0, dtype), *mine]), whole, counts)
    return whole
