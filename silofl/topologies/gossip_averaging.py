"""Gossip: every silo keeps a model of its own, and averages it with its neighbours' after local training.

`federation/round.py` calls `reduce`, which makes a message of what was trained, exchanges it, and works out
this silo's next model, and then `step`, which takes that up. What is exchanged and made of it is the
algorithm's (`silofl/mixing/algorithms`); who is whose neighbour, the graph's (`silofl/mixing/graphs`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from silofl.aggregation.base import Aggregator, Authorizer
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.neighbour_aggregator import NeighbourAggregator
from silofl.comm.collective_errors import allgather_parsed
from silofl.comm.elastic_group import ElasticGroup
from silofl.errors import MismatchError
from silofl.mixing.algorithms.base import Mixed, Received, State, Trained
from silofl.strategies.base import Strategy
from silofl.topologies.arrangements.gossip import Gossip
from silofl.topologies.base import BUFFERS, NO_STARTS
from silofl.topologies.tracked_strategy import CORRECTION, DISTANCE
from silofl.types import Contribution, Vector

MODEL, VALUES, STATE = "model", "values", "state"


class GossipAveraging:
    """`Topology` of silos that have a model each. `values` is this silo's; all begin with the same."""

    name = "gossip"

    def __init__(
        self,
        group: ElasticGroup,
        strategy: Strategy,
        make_aggregator: Callable[[], Aggregator],
        values: Vector,
        parameters: int,
        *,
        arrangement: Gossip,
        buffers: Vector | None = None,
        newcomers: tuple[int, ...] = (),
        starts: Mapping[str, Vector] = NO_STARTS,
    ) -> None:
        self._group, self._make_aggregator = group, make_aggregator
        self._arrangement, self._algorithm = arrangement, arrangement.method
        self.values, self._parameters = values, parameters
        self._state: State = self._algorithm.init(values, parameters)
        self._next: Mixed | None = None
        self.moved = 0.0
        """How far (L2) the last round's averaging has moved this silo's parameters."""
        self.aggregator: Aggregator
        self.members: tuple[int, ...] = ()
        if not newcomers:
            self._make()
            self._distribute()
            self._state = self._algorithm.init(values, parameters)

    def _make(self) -> None:
        """An aggregator for the silos that are there, however often that changes; collective."""
        while True:
            self.aggregator = self._make_aggregator()
            self.members = self.aggregator.layout.shards.members
            self._group.step(self._agree)
            if self.members == self._group.agreed_members():
                return
            self.aggregator.close()

    def _agree(self) -> None:
        """Raise MismatchError, on every rank, where silos have different graphs; collective, in a step."""
        period = self._arrangement.period(self.members, self.aggregator.spec.seed)
        mine = hashlib.sha256(b"".join(weights.tobytes() for weights in period)).hexdigest()
        told = allgather_parsed(self._group.comm, mine, str, "its graph")
        for silo, one in zip(self._group.members, told, strict=True):
            if one != told[0]:
                raise MismatchError(
                    f"silo {silo} has another graph of [topology] than silo {self._group.members[0]}: give "
                    "all the same topology.edges_file, and versions of NumPy that draw the same graphs",
                    rank=0,
                )

    def _distribute(self) -> None:
        """Give every silo the first one's untrained model; collective."""
        size, group, values = len(self.values), self._group, self.values

        def spread() -> None:
            comm = group.comm
            comm.allgather(values if comm.rank == 0 else values[:0], values, [size] + [0] * (comm.size - 1))

        group.step(spread)

    @property
    def shared(self) -> dict[str, Vector]:
        """See `Topology`: this silo's own model, and what is added to its gradients."""
        more = {CORRECTION: self._state[CORRECTION]} if self._algorithm.corrects else {}
        return {MODEL: self.values[: self._parameters], **more}

    def begin(self, round_number: int) -> None:
        """See `Topology`: every round exchanges everything."""

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
        """See `Topology`: each silo has the sum over its neighbours, and its own next model of it."""
        trained, aggregator = self._trained(contribution), self.aggregator
        assert isinstance(aggregator, NeighbourAggregator), "made for own models"
        sent = self._algorithm.message(self._state, trained)
        found = aggregator.exchange(
            sent, self._weights, round_number, absent, authorizer, compressed=self._algorithm.compresses
        )
        received = Received(found.own, found.exchanged.total, found.exchanged.weight)
        if found.exchanged.closed:  # all parts are made anew behind the round, in which a silo failed
            self._next = Mixed(trained.values, self._state)
        elif self._group.silo_id in absent:
            self._next = Mixed(self.values, self._state)
        else:
            self._next = self._algorithm.mix(self._state, trained, received)
        before, after = (one[: self._parameters] for one in (trained.values, self._next.values))
        self.moved = float(np.linalg.norm(after - before))

    def _weights(self, silos: tuple[int, ...], number: int) -> Any:
        return self._arrangement.weights(silos, number, self.aggregator.spec.seed)

    def _trained(self, contribution: Contribution) -> Trained:
        values = self.values.copy()
        values[: self._parameters] += contribution.vectors["update"]
        if BUFFERS in contribution.vectors:
            values[self._parameters :] += contribution.vectors[BUFFERS]
        distance = contribution.scalars.get(DISTANCE, 0.0)
        return Trained(self.values, values, self._parameters, distance)

    def step(self, spare: Vector, *, resync: bool) -> None:
        """See `Topology`: every silo takes up its own next model, which all have."""
        group, found = self._group, self._next
        if found is None:
            raise RuntimeError("nothing was exchanged")
        group.step(lambda: group.comm.mark("step"))
        self.values[:], self._state, self._next = found.values, found.state, None

    def rebuild(self, newcomers: tuple[int, ...] = ()) -> None:
        """See `Topology`; each of the newcomers calls `take_over` meanwhile."""
        self.aggregator.close()
        self._make()
        self._state = self._algorithm.renewed(self._state, self.values, self._parameters)

    def keep_copies(self) -> str:
        """See `Topology`: a silo's model is its own, and its buddy's copy of its checkpoint has it."""
        return ""

    def state(self) -> dict[str, Any]:
        """See `Topology`."""
        return {VALUES: self.values, STATE: dict(self._state)}

    def restore(self, state: dict[str, Any] | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Topology`. A silo that was away goes on with its own older model, or with the untrained one.

        Where other silos are there than committed the round, sums that silos keep of each other begin anew.
        """
        if state is not None:
            self.values[:] = state[VALUES]
            self._state = {name: np.array(values) for name, values in state[STATE].items()}
        if committed_by != self._group.agreed_members():
            self._state = self._algorithm.renewed(self._state, self.values, self._parameters)

    def rejoin_state(self) -> dict[str, Any]:
        """See `Topology`: nothing of a silo's model is told."""
        return {}

    def take_over(self, told: dict[str, Any], own: dict[str, Any] | None) -> None:
        """See `Topology`: a silo that rejoins goes on with its own older model, or with the untrained one."""
        if own is not None:
            self.values[:] = own[VALUES]
        self._make()
        self._state = self._algorithm.renewed(self._state, self.values, self._parameters)

    def close(self) -> None:
        """See `Topology`."""
        self.aggregator.close()
