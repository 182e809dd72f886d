"""The strategy's state on one rank: of the slice that it serves, and replicas of its neighbours'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from silofl.aggregation.recomputed import refuse_difference
from silofl.aggregation.shards import Shards
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.protocol import Communicator
from silofl.errors import StoppedError
from silofl.strategies.base import State, Strategy
from silofl.types import Vector


class SliceStates:
    """The strategy's state, slice by slice of the parameters, as this rank has it between two steps.

    Of each slice that this rank would take over it keeps the state, too.

    Args:
        strategy: what a step is.
        shards: ownership of the parameters.
        silo: this rank's number; one that is not among `shards.members` has no state.
        dtype: of the vectors.
    """

    def __init__(self, strategy: Strategy, shards: Shards, silo: int, dtype: np.dtype[Any]) -> None:
        self._strategy, self._silo, self._dtype = strategy, silo, dtype
        self.shards = shards
        self._states = {index: self.fresh(index) for index in self._held()}
        self._names = sorted(strategy.init(0, dtype))

    def resharded(self, shards: Shards) -> SliceStates:
        """Fresh state of the same strategy and rank over other shards."""
        return SliceStates(self._strategy, shards, self._silo, self._dtype)

    def accept(self, states: dict[int, State]) -> None:
        """Take up new states of slices."""
        self._states.update(states)

    def replicate(self, comm: Communicator, states: dict[int, State]) -> dict[int, State]:
        """Hand replicas of new states to the ranks that keep them; those that this rank keeps. Collective.

        Those that check a slice know its state.
        """
        if not self._names or not self.shards.replica_count:
            return {}
        parcels = [
            b"".join(
                state[name].tobytes()
                for index, state in sorted(states.items())
                if member in self._told(index, comm)
                for name in self._names
            )
            for member in comm.members
        ]
        kept: dict[int, State] = {}
        for member, parcel in zip(comm.members, comm.alltoall_bytes(parcels), strict=True):
            values = np.frombuffer(parcel, self._dtype)
            for index in self.shards.slices_of(member, comm.members):
                if self._silo in self._told(index, comm) and member != self._silo:
                    count = self._count(index)
                    kept[index] = {
                        name: values[place * count : (place + 1) * count].copy()
                        for place, name in enumerate(self._names)
                    }
                    values = values[len(self._names) * count :]
        return kept

    def _told(self, index: int, comm: Communicator) -> set[int]:
        """The silos that keep a slice's state and do not make it themselves."""
        return {*self.shards.replicas(index)} - {*self.shards.checked_by(index, comm.members)}

    def own_state(self) -> State:
        """The strategy's state of this rank's own slice, as views."""
        return dict(self._states[self.shards.members.index(self._silo)])

    def gather_full(self, comm: Communicator, holders: tuple[int, ...]) -> dict[str, Vector]:
        """The strategy's whole state, from the slices that `holders`, who are all here, serve. Collective.

        Raises, on every rank, StoppedError where a slice is lost with all of its replicas, and ProtocolError,
        naming server and replica, where they differ.
        """
        served = {member: self.shards.slices_of(member, holders) for member in holders}
        mine = served.get(self._silo, [])
        with raise_on_all_ranks(comm):
            for index in mine if self._names else []:
                self.state_of(index)
        whole = {
            name: gather_parts(
                comm,
                [self.state_of(index)[name] for index in mine],
                [sum(map(self._count, served.get(member, []))) for member in comm.members],
                self._dtype,
            )
            for name in self._names
        }
        with raise_on_all_ranks(comm):
            self._refuse_other(whole, holders)
        return whole

    def _refuse_other(self, whole: Mapping[str, Vector], holders: tuple[int, ...]) -> None:
        """Raise ProtocolError where a slice of the state is not as this rank keeps it."""
        for index, state in self._states.items() if self._silo in holders else ():
            server, (start, stop) = self.shards.server(index, holders), self.shards.span(index)
            given = {name: values[start:stop] for name, values in whole.items()}
            refuse_difference(server, self._silo, f"slice {index}", given, state)

    def load_full(self, whole: dict[str, Vector]) -> None:
        """Cut this rank's slices, and those that it keeps, out of the whole state."""
        for index in self._held():
            start, stop = self.shards.span(index)
            self._states[index] = {name: values[start:stop].copy() for name, values in whole.items()}

    def load_own(self, state: State) -> None:
        """Take up a committed state of this rank's own slice."""
        self._states[self.shards.members.index(self._silo)] = state

    def state_of(self, index: int) -> State:
        """The state of a slice that this rank serves or keeps; StoppedError where it is lost.

        Of a slice without values, as all but a coordinator's are, there is nothing to lose.
        """
        if index not in self._states and not self._count(index):
            return self.fresh(index)
        if index not in self._states:
            raise StoppedError(
                f"the server's state of slice {index} is lost with the silos that kept it; "
                "--resume goes on from the last committed round"
            )
        return self._states[index]

    def _held(self) -> list[int]:
        """Slices whose state this rank has: the one it serves, and those it keeps replicas of."""
        return [
            index
            for index, member in enumerate(self.shards.members)
            if member == self._silo or self._silo in self.shards.replicas(index)
        ]

    def fresh(self, index: int) -> State:
        """The strategy's first state of any slice."""
        return self._strategy.init(self._count(index), self._dtype)

    def _count(self, index: int) -> int:
        start, stop = self.shards.span(index)
        return stop - start


def gather_parts(comm: Communicator, mine: list[Vector], counts: list[int], dtype: np.dtype[Any]) -> Vector:
    """Concatenate every rank's parts, `counts` values a rank, in rank order; collective."""
    whole: Vector = np.empty(sum(counts), dtype)
    comm.allgather(np.concatenate([np.empty(0, dtype), *mine]), whole, counts)
    return whole
