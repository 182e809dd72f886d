"""A server in slices: every rank serves one slice of the shared vectors, as a sharded optimizer does.

`federation/round.py` calls `reduce`, which hands the contribution to the aggregator, and then `step`: the
mean of this rank's slice, the strategy's server half, and an allgather that gives every rank all slices.
The strategy's state stays with its slice (`slice_states.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Aggregator, Authorizer
from silofl.aggregation.gathered_sums import gather_sums
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.recomputed import digests, refuse_difference
from silofl.aggregation.shards import Shards, slice_counts
from silofl.aggregation.sum_terms import Common
from silofl.comm.collective_errors import allgather_parsed, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.errors import UserCodeError
from silofl.strategies.base import State, Strategy
from silofl.topologies.base import BUFFERS, NO_STARTS
from silofl.topologies.checked_parts import note_own, refuse_false_parts
from silofl.topologies.restored_slices import gather_from, restore_slices
from silofl.topologies.slice_copies import STRATEGY, VECTORS, SliceCopies, exchange_copies, of_slice
from silofl.topologies.slice_states import SliceStates, gather_parts
from silofl.types import Contribution, Total, Vector

MODEL = "model"
Slices = dict[str, Vector]


class ShardedServer:
    """`Topology` of ranks that each own a slice of every shared vector."""

    name = "server"

    def __init__(
        self,
        group: ElasticGroup,
        strategy: Strategy,
        make_aggregator: Callable[[], Aggregator],
        values: Vector,
        parameters: int,
        *,
        buffers: Vector | None = None,
        newcomers: tuple[int, ...] = (),
        starts: Mapping[str, Vector] = NO_STARTS,
    ) -> None:
        self._group, self.strategy, self._make_aggregator = group, strategy, make_aggregator
        self.values, self._parameters = values, parameters
        self._buffers = values[parameters:] if buffers is None else buffers
        more = {name: np.zeros(parameters, values.dtype) for name in strategy.shared if name != MODEL}
        starts = {name: start for name, start in starts.items() if name != MODEL}  # `values` have that
        for name, start in starts.items():
            more[name][:] = start
        self.shared: Slices = {MODEL: values[:parameters], **more}
        self.aggregator: Aggregator
        self._states: SliceStates
        self._newcomers = newcomers
        self._round = 0
        self._rooms: dict[int, Slices] = {}
        self._copies: SliceCopies | None = None
        if not newcomers:
            self.aggregator = make_aggregator()
            self._states = self._new_states(self.aggregator.layout.shards.of_size(parameters))
            for vector in (self.shared[MODEL], self._buffers, *(more[name] for name in starts)):
                self._distribute(vector)

    def _new_states(self, shards: Shards) -> SliceStates:
        return SliceStates(self.strategy, shards, self._group.silo_id, self.values.dtype)

    @property
    def shards(self) -> Shards:
        """Ownership of the parameters."""
        return self._states.shards

    @property
    def members(self) -> tuple[int, ...]:
        """See `Topology`."""
        return self._states.shards.members

    @property
    def _all(self) -> Slices:
        """Every vector that ranks hold in full."""
        return self.shared | ({BUFFERS: self._buffers} if len(self._buffers) else {})

    def _span(self, name: str) -> Shards:
        return self.shards.of_size(len(self._all[name]))

    def begin(self, round_number: int) -> None:
        """See `Topology`: every round sums everything."""

    def reduce(
        self,
        contribution: Contribution,
        round_number: int,
        magnitudes: Magnitudes,
        terms: bytes,
        *,
        absent: tuple[int, ...] = (),
        authorizer: Authorizer | None = None,
    ) -> None:
        """See `Topology`."""
        self._round = round_number
        note_own(self.strategy, contribution.vectors, self.shards)
        common = Common(tuple(self._all.values()), terms, absent)
        self.aggregator.reduce(contribution, round_number, magnitudes, authorizer, common)

    def step(self, spare: Vector, *, resync: bool) -> None:
        """See `Topology`. A slice whose server has failed is stepped by a rank that keeps its replicas.

        Where slices have checkers, those recompute the step, and ProtocolError names server and checker, on
        every rank, where they differ: before anybody takes the step up.

        Where ranks may fail, new vectors are gathered beside the old ones, which stay whole until every rank
        has the new ones: the model's parameters in `spare` (P,), which is written over.
        """
        group, vectors = self._group, self._all
        targets = vectors if not group.fault_tolerant else self._targets(spare)
        stepped: dict[int, tuple[Slices, State]] = {}

        def step() -> dict[int, State]:
            comm = group.comm
            comm.mark("step")
            whole = gather_sums(comm, group.silo_id, self.aggregator)
            served = self.shards.slices_of(group.silo_id, group.members)
            checked = self._checked()
            over_slices = self._over_slices(served, checked)
            with raise_on_all_ranks(comm):
                for index in {*served, *checked} - set(stepped):
                    into = targets if whole else None
                    stepped[index] = self._step(index, into=into, resync=resync, over_slices=over_slices)
            comm.mark("allgather")
            for name, target in targets.items() if not whole else ():
                parts = [stepped[index][0][name] for index in served]
                mine = parts[0] if len(parts) == 1 else np.concatenate(parts)
                comm.allgather(mine, target, slice_counts(self._span(name).owned_ranges(group.members)))
            if self.shards.checkers and not whole:
                with raise_on_all_ranks(comm):
                    for index in checked:
                        self._compare(index, stepped[index][0], targets)
            states = {index: stepped[index][1] for index in served}
            kept = self._states.replicate(comm, states) if group.fault_tolerant else {}
            return kept | {index: stepped[index][1] for index in (*served, *checked)}

        self._states.accept(group.step(step))
        if group.fault_tolerant:
            for name, target in targets.items():
                vectors[name][:] = target

    def _targets(self, spare: Vector) -> Slices:
        return {name: spare if name == MODEL else np.empty_like(v) for name, v in self._all.items()}

    def _slices(self, index: int, vectors: Slices) -> Slices:
        return of_slice(self.shards, index, vectors)

    def _over_slices(self, served: list[int], checked: list[int]) -> NDArray[np.float64]:
        """The sum over all slices of the strategy's parts, empty where it has none; collective.

        ProtocolError, on every rank, where a server's part is not what this rank gets for it.
        """
        if type(self.strategy).part is Strategy.part:
            return np.empty(0)
        comm, silo, dtype = self._group.comm, self._group.silo_id, np.dtype(np.float64)
        with raise_on_all_ranks(comm):
            own = {k: np.asarray(self._part(k), dtype) for k in (*served, *checked)}
            if any(one.ndim != 1 for one in own.values()):
                raise UserCodeError(f"{self._part_name} has to be a vector (s,), which it is not")
        length = self._agreed_length(sorted({len(one) for one in own.values()}))
        counts = [length * len(self.shards.slices_of(member, comm.members)) for member in comm.members]
        parts = gather_parts(comm, [own[k] for k in served], counts, dtype).reshape(-1, length)
        with raise_on_all_ranks(comm):
            refuse_false_parts(self.strategy, parts, self.shards, comm, self.aggregator.participants)
            for k in checked:
                server = self.shards.server(k, comm.members)
                refuse_difference(server, silo, f"slice {k}", {"part": parts[k]}, {"part": own[k]})
        return np.asarray(np.add.reduce(parts, axis=0))

    def _part(self, index: int) -> NDArray[np.float64]:
        return self.strategy.part(dict(self._states.state_of(index)), self._total(index))

    def _total(self, index: int) -> Total:
        """A slice of the sum, with whose it is."""
        members = self.aggregator.participants
        return replace(self.aggregator.total(index), members=members, round_number=self._round)

    @property
    def _part_name(self) -> str:
        return f"what {type(self.strategy).__name__}.part gives of a slice"

    def _agreed_length(self, mine: list[int]) -> int:
        """Of every slice's part; UserCodeError, on every rank, where they are not of one. Collective."""
        told = allgather_parsed(
            self._group.comm, mine, lambda sent: [int(one) for one in sent], "the length of its parts"
        )
        lengths = sorted({length for one in told for length in one})
        if len(lengths) != 1:
            raise UserCodeError(
                f"{self._part_name} has to be of one length, whichever slice: there are {lengths}", rank=0
            )
        return lengths[0]

    def _step(
        self, index: int, *, into: Slices | None, resync: bool, over_slices: NDArray[np.float64]
    ) -> tuple[Slices, State]:
        """New values of a slice, in the vectors `into` or valid until the next round's, and its state."""
        before = self._slices(index, self._all)
        after = self._rooms.get(index) if into is None else self._slices(index, into)
        if after is None:  # kept, so that its pages are there in the next round
            after = self._rooms[index] = {name: np.empty_like(values) for name, values in before.items()}
        for name, values in after.items():
            values[:] = before[name]
        total = replace(self._total(index), resync=resync, over_slices=over_slices)
        state, total = self.strategy.combine(dict(self._states.state_of(index)), total)
        stepped = dict(after)
        buffers = stepped.pop(BUFFERS, None)
        if buffers is not None:  # averaged, not stepped
            buffers += total.mean[BUFFERS]
        return dict(after), self.strategy.step(state, stepped, total)

    def _checked(self) -> list[int]:
        """The slices whose step this rank recomputes."""
        silo, left = self._group.silo_id, self._group.members
        return [k for k in range(len(self.members)) if silo in self.shards.checked_by(k, left)]

    def _compare(self, index: int, recomputed: Slices, gathered: Slices) -> None:
        """Raise ProtocolError unless a slice of every vector is what this rank gets for it."""
        server, given = self.shards.server(index, self._group.members), self._slices(index, gathered)
        refuse_difference(server, self._group.silo_id, f"slice {index}", given, recomputed)

    def _distribute(self, vector: Vector) -> None:
        """Give every rank the first rank's values of a vector."""
        size, group = len(vector), self._group

        def spread() -> None:
            comm = group.comm
            mine = vector if comm.rank == 0 else vector[:0]
            comm.allgather(mine, vector, [size] + [0] * (comm.size - 1))

        group.step(spread)

    def state(self) -> dict[str, Any]:
        """See `Topology`."""
        known = {
            str(k): {
                VECTORS: digests(self._slices(k, self._all)),
                STRATEGY: digests(self._states.state_of(k)),
            }
            for k in self._checked()
        }
        copies = {} if self._copies is None else {"copies": self._copies.state()}
        return self._own() | {"checked": known} | copies

    def _own(self) -> dict[str, Slices]:
        index = self.members.index(self._group.silo_id)
        return {VECTORS: self._slices(index, self._all), STRATEGY: self._states.own_state()}

    def keep_copies(self) -> str:
        """See `Topology`."""
        comm, self._copies = self._group.comm, None
        if comm.members == self.members:
            vectors = self._all
            self._copies = exchange_copies(
                comm, self._own(), lambda index: self._slices(index, vectors), self._states.fresh
            )
        return "" if self._copies is None else self._copies.common

    def restore(self, state: dict[str, Any] | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Topology`."""
        state = state if member else None
        restore_slices(self._group, state, committed_by, self._all, self._states, self._parameters)

    def _gather(self, mine: list[Vector], lengths: dict[int, int]) -> Vector:
        return gather_from(self._group, mine, lengths, self.values.dtype)

    def rebuild(self, newcomers: tuple[int, ...] = ()) -> None:
        """See `Topology`; each of the newcomers calls `take_over` meanwhile."""
        self.aggregator.close()
        self._remake(newcomers)

    def rejoin_state(self) -> dict[str, Any]:
        """See `Topology`: ownership of the parameters before silos rejoin."""
        told = ("members", "replica_count", "checkers", "sole", "near")
        return {name: getattr(self.shards, name) for name in told}

    def take_over(self, told: dict[str, Any], own: dict[str, Any] | None) -> None:
        """See `Topology`."""
        members, kept, checkers = tuple(told["members"]), told["replica_count"], told["checkers"]
        near = tuple(map(tuple, told["near"]))
        shards = Shards(self._parameters, members, kept, checkers=checkers, sole=told["sole"], near=near)
        self._states = self._new_states(shards)
        self._remake(self._newcomers)

    def _remake(self, newcomers: tuple[int, ...]) -> None:
        """An aggregator and a server for the silos that are there now, however often that changes."""
        group, earlier = self._group, self._states
        self._rooms = {}

        def holders() -> tuple[int, ...]:
            return tuple(member for member in group.members if member not in newcomers)

        def give(name: str, vector: Vector) -> Vector:
            giver, silo = holders()[0], group.silo_id
            given = self._gather([vector] if silo == giver else [], {giver: len(vector)})
            with raise_on_all_ranks(group.comm):
                if silo in holders():  # all go on with what was given
                    refuse_difference(giver, silo, "all slices", {name: given}, {name: vector})
            return given

        while True:
            for name, vector in self._all.items() if newcomers else ():
                vector[:] = group.step(lambda name=name, vector=vector: give(name, vector))  # type: ignore[misc]
            whole = group.step(lambda: earlier.gather_full(group.comm, holders()))
            self.aggregator = self._make_aggregator()
            shards = self.aggregator.layout.shards.of_size(self._parameters)
            self._states = earlier.resharded(shards)
            self._states.load_full(whole)
            if shards.members == group.agreed_members():
                return
            self.aggregator.close()

    def close(self) -> None:
        """See `Topology`."""
        self.aggregator.close()
