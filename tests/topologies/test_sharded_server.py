"""Servers in slices against one server that steps whole vectors: the same bits."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl.aggregation.magnitudes import measure
from silofl.aggregation.plain import PlainAggregator
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator, SimulatedCrash
from silofl.comm.rendezvous import Group
from silofl.comm.threads import ThreadCommunicator, run_in_threads
from silofl.strategies import registry
from silofl.strategies.base import Strategy
from silofl.topologies.sharded_server import BUFFERS, ShardedServer
from silofl.types import Contribution, Total

Array = NDArray[np.floating[Any]]
SIZE, EXTRA = 150, 30
"""Parameters, in no more than three slices of 64 whatever the ranks, and buffers."""
SAMPLES = (5, 17, 40, 8, 23)
KINDS = [
    *(build() for build in (registry.STRATEGIES[name] for name in sorted(registry.STRATEGIES))),
    registry.STRATEGIES["fedavg"](lr=0.7, momentum=0.5),
    registry.STRATEGIES["fedsgd"](lr=0.3, momentum=0.9),
    registry.STRATEGIES["scaffold"](lr=0.6),
]
EVERY = pytest.mark.parametrize("strategy", KINDS, ids=str)


def contribution(strategy: Strategy, silo: int, number: int, buffers: int) -> Contribution:
    rng = np.random.default_rng((silo, number))
    vectors = {name: rng.standard_normal(SIZE).astype(np.float32) for name in strategy.sends}
    if buffers:
        vectors[BUFFERS] = rng.standard_normal(buffers).astype(np.float32)
    return Contribution(vectors, dict.fromkeys(strategy.scalars, 1.0 + silo), 1.0 + silo)


def start(silo: int, buffers: int) -> Array:
    """A silo's untrained model: that of the first rank counts."""
    return np.random.default_rng(900 + silo).standard_normal(SIZE + buffers).astype(np.float32)


class Whole:
    """One server over whole vectors; means as `PlainAggregator` says that it makes them."""

    def __init__(self, strategy: Strategy, buffers: int, silos: int, *, first: int = 0) -> None:
        values = start(first, buffers)
        self._strategy, self._silos, self._buffers = strategy, silos, values[SIZE:]
        self.shared = {name: np.zeros(SIZE, np.float32) for name in strategy.shared}
        self.shared["model"] = values[:SIZE]
        self.state = strategy.init(SIZE, np.dtype(np.float32))

    def round(self, number: int, here: tuple[int, ...], *, resync: bool = False) -> None:
        sent = [contribution(self._strategy, silo, number, len(self._buffers)) for silo in here]
        weights = {
            "samples": [float(SAMPLES[silo]) for silo in here],
            "uniform": [1.0] * len(here),
            "round": [one.weight for one in sent],
        }

        def mean(name: str, weighting: str) -> Array:
            total = np.zeros(len(sent[0].vectors[name]))
            for one, weight in zip(sent, weights[weighting], strict=True):
                share = weight / sum(weights[weighting])
                total += (one.vectors[name].astype(np.float64) * share).astype(np.float32)
            return total.astype(np.float32)

        means = {name: mean(name, weighting) for name, weighting in self._strategy.sends.items()}
        if len(self._buffers):
            self._buffers = self._buffers + mean(BUFFERS, "samples")
        scalars = {
            name: float(np.average([one.scalars[name] for one in sent], weights=weights["samples"]))
            for name in self._strategy.scalars
        }
        total = Total(means, scalars, len(here), self._silos, resync)
        total = replace(total, over_slices=self._strategy.part(self.state, total))
        self.state = self._strategy.step(self.state, self.shared, total)

    @property
    def everything(self) -> list[bytes]:
        return [vector.tobytes() for vector in (*self.shared.values(), self._buffers)]


class Rank:
    """A silo's part, and the rounds that it has seen."""

    def __init__(self, group: ElasticGroup, strategy: Strategy, buffers: int, **more: Any) -> None:
        self.group, self._strategy, self._buffers = group, strategy, buffers
        vectors = [VectorSpec(name, SIZE, "scaled", by) for name, by in strategy.sends.items()]
        if buffers:
            vectors.append(VectorSpec(BUFFERS, buffers, "exact"))
        kind = np.dtype(np.float32)
        samples, silos = SAMPLES[group.silo_id], more.pop("silos", group.comm.size)
        spec = AggregationSpec(tuple(vectors), kind, samples, 0, bytes(32), silos, 1, strategy.scalars)
        values = start(group.silo_id, buffers)
        self.server = ShardedServer(
            group, strategy, lambda: PlainAggregator(group, spec), values, SIZE, **more
        )
        self._spec = spec

    def round(self, number: int, *, resync: bool = False) -> None:
        mine = contribution(self._strategy, self.group.silo_id, number, self._buffers)
        self.server.reduce(mine, number, measure(mine, self._spec), b"")
        self.server.step(mine.vectors["update"], resync=resync)

    @property
    def everything(self) -> list[bytes]:
        shared = self.server.shared
        return [vector.tobytes() for vector in (*shared.values(), self.server.values[SIZE:])]


@pytest.mark.covering(1)
@EVERY
@pytest.mark.parametrize("buffers", [0, EXTRA])
@pytest.mark.parametrize("tolerant", [True, False])
def test_slices_equal_the_whole(strategy: Strategy, buffers: int, tolerant: bool) -> None:
    """Over 1, 2, 3 and 5 ranks, of which two have no slice; the third round resynchronizes."""
    for ranks in (1, 2, 3, 5):

        def rank(comm: Communicator) -> list[list[bytes]]:
            mine, seen = Rank(ElasticGroup(comm, fault_tolerant=tolerant), strategy, buffers), []
            for number in (1, 2, 3):
                mine.round(number, resync=number == 3)
                seen.append(mine.everything)
            return seen

        whole, expected = Whole(strategy, buffers, ranks), []
        for number in (1, 2, 3):
            whole.round(number, tuple(range(ranks)), resync=number == 3)
            expected.append(whole.everything)
        assert run_in_threads(ranks, rank) == [expected] * ranks


@pytest.mark.covering(1)
@EVERY
@pytest.mark.parametrize("step", ["step", "allgather"])
@pytest.mark.parametrize("victim", [0, 2, 4])
def test_a_rank_fails(strategy: Strategy, step: str, victim: int) -> None:
    """In the step of round 2, whose sum it is in: its neighbour steps its slice from the replica it keeps."""

    def rank(comm: Communicator) -> list[bytes]:
        number = 0

        def reach(mark: str) -> None:
            if (comm.rank, number, mark) == (victim, 2, step):
                raise SimulatedCrash

        comm.on_mark(reach)
        mine = Rank(ElasticGroup(comm), strategy, EXTRA)
        for number in (1, 2, 3):
            mine.round(number)
            if mine.server.members != mine.group.agreed_members():
                mine.server.rebuild()
        return mine.everything

    results = run_in_threads(5, rank)
    assert results.pop(victim) is None
    whole, survivors = Whole(strategy, EXTRA, 5), tuple(silo for silo in range(5) if silo != victim)
    for number in (1, 2, 3):
        whole.round(number, tuple(range(5)) if number < 3 else survivors)
    assert results == [whole.everything] * 4


@pytest.mark.covering(1)
@EVERY
@pytest.mark.parametrize("new", [0, 1, 3])
def test_a_silo_rejoins(strategy: Strategy, new: int) -> None:
    """Three ranks take a fourth in after round 2: it has all vectors, and its slice of the state."""
    old = tuple(silo for silo in range(4) if silo != new)

    def rank(comm: ThreadCommunicator) -> list[list[bytes]]:
        world = comm._rendezvous.group.world  # type: ignore[union-attr]
        three = comm._enter("three", payload=Group(world, old)).wait()[0]
        joins, leader = comm.rank == new, old[0]
        own = comm if joins else ThreadCommunicator(three.first, old.index(comm.rank))
        mine = Rank(ElasticGroup(own), strategy, EXTRA, silos=4, newcomers=(new,) if joins else ())
        for number in (1, 2) if not joins else ():
            mine.round(number)
        told = {} if joins else mine.server.rejoin_state()
        message = json.dumps([mine.group.completed + 1, told]).encode()
        completed, told = json.loads(comm.broadcast_bytes(message, leader))
        mine.group.adopt(comm, completed if joins else None)
        if joins:
            mine.server.take_over(told, None)
        else:
            mine.server.rebuild((new,))
        seen = [mine.everything]
        for number in (3, 4):
            mine.round(number, resync=number == 3)
            seen.append(mine.everything)
        return seen

    whole, expected = Whole(strategy, EXTRA, 4, first=old[0]), []
    for number in (1, 2, 3, 4):
        here = old if number < 3 else (0, 1, 2, 3)
        whole.round(number, here, resync=number == 3)
        expected.append(whole.everything)
    assert run_in_threads(4, rank) == [expected[1:]] * 4  # type: ignore[arg-type]


@pytest.mark.covering(1)
@EVERY
@pytest.mark.parametrize(
    ("committed_by", "ranks"), [((0, 1, 2), 3), ((0, 1, 2), 5), ((1, 3, 4), 5), ((0, 4), 5), ((2,), 3)]
)
def test_other_members_go_on_from_a_committed_round(
    strategy: Strategy, committed_by: tuple[int, ...], ranks: int
) -> None:
    def before(comm: Communicator) -> dict[str, Any]:
        mine = Rank(ElasticGroup(comm), strategy, EXTRA)
        for number in (1, 2):
            mine.round(number)
        return deepcopy(mine.server.state())

    states = dict(zip(committed_by, run_in_threads(len(committed_by), before), strict=True))

    def after(comm: Communicator) -> list[bytes]:
        mine = Rank(ElasticGroup(comm), strategy, EXTRA)
        member = comm.rank in states
        older = states[committed_by[0]]  # of an earlier round: not to be looked at
        mine.server.restore(states.get(comm.rank, older), committed_by, member=member)
        mine.round(3)
        return mine.everything

    whole = Whole(strategy, EXTRA, len(committed_by))
    for number in (1, 2):
        whole.round(number, tuple(range(len(committed_by))))
    whole._silos = ranks
    whole.round(3, tuple(range(ranks)))
    assert run_in_threads(ranks, after) == [whole.everything] * ranks


def test_a_slice_that_is_lost_with_its_replica_stops_the_run() -> None:
    strategy = registry.STRATEGIES["fedavg"](momentum=0.5)

    def rank(comm: Communicator) -> Any:
        number = 0

        def reach(mark: str) -> None:
            if comm.rank < 2 and (number, mark) == (2, "step"):
                raise SimulatedCrash

        comm.on_mark(reach)
        mine = Rank(ElasticGroup(comm), strategy, 0)
        for number in (1, 2):
            try:
                mine.round(number)
            except Exception as error:  # the same on every rank
                return type(error).__name__
        return "went on"

    assert run_in_threads(4, rank) == [None, None, "StoppedError", "StoppedError"]
