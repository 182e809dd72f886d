"""A server that lies about its slice, the same to all silos, is found by a silo that recomputes its step."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from silofl.aggregation import protocols
from silofl.aggregation.magnitudes import measure
from silofl.aggregation.shards import Shards
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator, SimulatedCrash
from silofl.comm.rendezvous import Group
from silofl.comm.threads import ThreadCommunicator, run_in_threads
from silofl.config import SecureConfig
from silofl.errors import ProtocolError
from silofl.strategies import registry
from silofl.strategies.base import Strategy
from silofl.topologies.sharded_server import BUFFERS, ShardedServer
from silofl.types import Contribution
from tests.campaigns import mostly_long
from tests.exchange_ways import WAYS, use

SILOS, SIZE, EXTRA = 4, 250, 70
"""Parameters in four slices; buffers in two."""
FAMILY = [registry.STRATEGIES[name]() for name in sorted(registry.STRATEGIES)]
MOMENTUM = registry.STRATEGIES["fedavg"](momentum=0.5)
EVERY = pytest.mark.parametrize("strategy", [*FAMILY, MOMENTUM], ids=str)
SOME = pytest.mark.parametrize(
    "strategy",
    mostly_long(
        [*FAMILY, MOMENTUM], *map(sorted(registry.STRATEGIES).index, ("fedadam", "scaffold")), len(FAMILY)
    ),
    ids=str,
)
Lie = Callable[["Rank"], None]


class Rank:
    """One silo's part of rounds by `secagg`."""

    def __init__(
        self, group: ElasticGroup, strategy: Strategy, recompute: int, replica_count: int = 1, **more: Any
    ) -> None:
        self.group, self.silo, self._strategy = group, group.silo_id, strategy
        vectors = [VectorSpec(name, SIZE, "scaled", by) for name, by in strategy.sends.items()]
        kind, samples = np.dtype(np.float32), 5 + self.silo
        self._spec = AggregationSpec(
            (*vectors, VectorSpec(BUFFERS, EXTRA, "exact")), kind, samples, 0, bytes(32), SILOS,
            replica_count, strategy.scalars, recompute=recompute,
        )  # fmt: skip
        secure = SecureConfig(threshold=3, bits=32)
        values = np.random.default_rng(9).standard_normal(SIZE + EXTRA).astype(kind)
        starts = {name: values[:SIZE].copy() for name in strategy.shared}
        self.server = ShardedServer(
            group, strategy, lambda: protocols.build(group, secure, self._spec), values, SIZE,
            starts=starts, **more,
        )  # fmt: skip

    def reduce(self, number: int) -> Contribution:
        rng = np.random.default_rng((self.silo, number))
        draw = {one.name: rng.standard_normal(one.size).astype(np.float32) for one in self._spec.vectors}
        mine = Contribution(draw, dict.fromkeys(self._strategy.scalars, 1.0), 1.0 + self.silo)
        self.server.reduce(mine, number, measure(mine, self._spec), b"")
        return mine

    def round(self, number: int, *, resync: bool = False) -> None:
        self.server.step(self.reduce(number).vectors["update"], resync=resync)

    @property
    def everything(self) -> list[bytes]:
        return [vector.tobytes() for vector in (*self.server.shared.values(), self.server.values)]


def steps_otherwise(vector: str) -> Lie:
    """It adds a constant to its slice of a vector."""

    def lie(mine: Rank) -> None:
        honest = mine.server._step

        def step(index: int, **more: Any) -> Any:
            after, state = honest(index, **more)
            if index == mine.silo and vector in after:
                after[vector] = after[vector] + np.float32(1e-3)
            return after, state

        mine.server._step = step  # type: ignore[method-assign]

    return lie


def reads_another_sum(mine: Rank) -> None:
    """It takes another mean for what it reads."""
    honest = mine.server.aggregator.total

    def total(index: int) -> Any:
        found = honest(index)
        if index == mine.silo:
            return replace(found, mean={name: mean + np.float32(1) for name, mean in found.mean.items()})
        return found

    mine.server.aggregator.total = total  # type: ignore[method-assign]


def writes_another_sum(mine: Rank) -> None:
    """It puts other words in the place of its sum, where others may read it, once the masks are known."""
    mine.server.aggregator._sum._collection.exchange.result[:1] += np.uint32(1 << 24)  # type: ignore[attr-defined]


def keeps_another_state(mine: Rank) -> None:
    """It changes what it keeps for its slice before the step."""
    state = mine.server._states._states[mine.silo]
    mine.server._states.accept({mine.silo: {name: values + 1 for name, values in state.items()}})


def outcomes(
    strategy: Strategy, liar: int, lie: Lie, *, recompute: int = 1, replica_count: int = 1
) -> list[str | None]:
    """What each silo's error in round 2 is, in which one lies; None where there is none."""

    def rank(comm: Communicator) -> str | None:
        mine = Rank(ElasticGroup(comm), strategy, recompute, replica_count)
        mine.round(1)
        before = mine.everything
        sent = mine.reduce(2)
        if mine.silo == liar:
            lie(mine)
        comm.barrier()  # whatever others can read, they read after it
        try:
            mine.server.step(sent.vectors["update"], resync=False)
        except ProtocolError as error:
            assert mine.everything == before  # what was refused is nowhere
            return str(error)
        return None

    return run_in_threads(SILOS, rank)


LIES = [steps_otherwise("model"), steps_otherwise(BUFFERS), reads_another_sum, writes_another_sum]


@pytest.mark.covering(1)
@EVERY
@pytest.mark.parametrize("lie", LIES, ids=["model", "buffers", "reads", "writes"])
def test_a_lying_server_is_named_before_its_slice_is_taken_up(strategy: Strategy, lie: Lie) -> None:
    for error in outcomes(strategy, 1, lie):
        assert error is not None
        assert error.startswith("silo 1's ")
        assert "of slice 1 and silo 2's recomputation of it differ" in error


@pytest.mark.covering(0)
@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("lie", LIES[2:], ids=["reads", "writes"])
def test_sums_that_came_as_messages_serve_as_well(
    lie: Lie, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(way, monkeypatch)
    for error in outcomes(MOMENTUM, 0, lie):
        assert "of slice 0 and silo 1's recomputation of it differ" in str(error)


def test_the_last_slice_is_checked_by_the_first_silo() -> None:
    for error in outcomes(FAMILY[0], 3, reads_another_sum, replica_count=0):
        assert "of slice 3 and silo 0's recomputation of it differ" in str(error)


@pytest.mark.parametrize("strategy", [MOMENTUM, registry.STRATEGIES["fedsgd"](momentum=0.9)], ids=str)
@pytest.mark.parametrize("replica_count", [0, 2])
def test_a_server_that_changes_its_state_is_named(strategy: Strategy, replica_count: int) -> None:
    for error in outcomes(strategy, 2, keeps_another_state, replica_count=replica_count):
        assert "silo 2's model of slice 2 and silo 3's" in str(error)


def test_a_control_variate_is_checked_too() -> None:
    scaffold = registry.STRATEGIES["scaffold"]()
    for error in outcomes(scaffold, 1, steps_otherwise("control")):
        assert "silo 1's control of slice 1 and silo 2's" in str(error)


def test_two_checkers_see_what_one_that_colludes_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ShardedServer._compare

    def blind(self: Any, *of: Any) -> None:
        if self._group.silo_id != 2:
            honest(self, *of)

    monkeypatch.setattr(ShardedServer, "_compare", blind)
    lie = steps_otherwise("model")
    assert outcomes(FAMILY[0], 1, lie) == [None] * SILOS
    assert all("slice 1 and silo 3's" in str(error) for error in outcomes(FAMILY[0], 1, lie, recompute=2))


def test_nobody_looks_where_nothing_is_recomputed() -> None:
    assert outcomes(FAMILY[0], 1, steps_otherwise("model"), recompute=0) == [None] * SILOS


@pytest.mark.covering(0)
@SOME
def test_honest_rounds_are_the_same_bits(strategy: Strategy) -> None:
    """A silo fails in the step of round 2: another serves its slice, and that is checked where it can be."""

    def run(recompute: int, replica_count: int) -> list[Any]:
        def rank(comm: Communicator) -> list[bytes]:
            number = 0

            def reach(mark: str) -> None:
                if (comm.rank, number, mark) == (2, 2, "allgather"):
                    raise SimulatedCrash

            comm.on_mark(reach)
            mine = Rank(ElasticGroup(comm), strategy, recompute, replica_count)
            for number in (1, 2, 3):
                mine.round(number)
                if mine.server.members != mine.group.agreed_members():
                    mine.server.rebuild()
            return mine.everything

        return run_in_threads(SILOS, rank)

    expected = run(0, 1)
    assert expected[0] == expected[1] == expected[3]
    assert run(1, 1) == expected
    assert strategy is not MOMENTUM or run(2, 2) == expected


@pytest.mark.parametrize(("recompute", "replica_count"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("failed", [0, 1, 3])
def test_who_takes_a_slice_over_is_checked(failed: int, recompute: int, replica_count: int) -> None:
    """By the other silo that has its sum."""

    def rank(comm: Communicator) -> str:
        mine = Rank(ElasticGroup(comm), FAMILY[0], recompute, replica_count)
        sent = mine.reduce(1)
        if comm.rank == failed:
            raise SimulatedCrash
        honest, left = mine.server._step, [silo for silo in range(SILOS) if silo != failed]

        def step(index: int, **more: Any) -> Any:
            after, state = honest(index, **more)
            if index == failed and mine.silo == mine.server.shards.server(failed, left):
                after["model"] = after["model"] + np.float32(1)
            return after, state

        mine.server._step = step  # type: ignore[method-assign]
        with pytest.raises(ProtocolError, match=f"model of slice {failed} and silo") as refused:
            mine.server.step(sent.vectors["update"], resync=False)
        return str(refused.value)

    assert len({error for error in run_in_threads(SILOS, rank) if error}) == 1


def another_model(mine: Rank) -> None:
    """It gives all silos another model when one rejoins."""
    mine.server.values[:5] += np.float32(1)


@pytest.mark.parametrize(
    ("lie", "liar", "words"),
    [
        (None, 0, None),
        (another_model, 0, "silo 0's model of all slices and silo 1's"),
        (keeps_another_state, 1, "silo 1's velocity of slice 1 and silo 2's"),
    ],
    ids=["honest", "model", "state"],
)
def test_what_is_given_to_a_silo_that_rejoins(lie: Lie | None, liar: int, words: str | None) -> None:
    """All go on with it: so all that have it compare."""
    new, old = 3, (0, 1, 2)

    def rank(comm: ThreadCommunicator) -> str | None:
        world = comm._rendezvous.group.world  # type: ignore[union-attr]
        three = comm._enter("three", payload=Group(world, old)).wait()[0]
        joins = comm.rank == new
        own = comm if joins else ThreadCommunicator(three.first, comm.rank)
        mine = Rank(ElasticGroup(own), MOMENTUM, 1, newcomers=(new,) if joins else ())
        for number in (1, 2) if not joins else ():
            mine.round(number)
        if comm.rank == liar and lie is not None:
            lie(mine)
        told = {} if joins else mine.server.rejoin_state()
        message = json.dumps([mine.group.completed + 1, told]).encode()
        completed, told = json.loads(comm.broadcast_bytes(message, 0))
        mine.group.adopt(comm, completed if joins else None)
        try:
            if joins:
                mine.server.take_over(told, None)
            else:
                mine.server.rebuild((new,))
            mine.round(3, resync=True)
        except ProtocolError as error:
            return str(error)
        return None

    for error in run_in_threads(SILOS, rank):  # type: ignore[arg-type]
        assert (error is None) == (words is None)
        assert words is None or words in str(error)


def changed(state: dict[str, Any], where: str, name: str) -> None:
    """A bit of what a silo committed of its own slice is another."""
    state[where][name] = state[where][name].copy()
    state[where][name].view(np.uint32)[-1] ^= 1


RESUMES = [
    (MOMENTUM, "slices", "model"),
    (MOMENTUM, "slices", BUFFERS),
    (MOMENTUM, "strategy", "velocity"),
    (registry.STRATEGIES["scaffold"](), "slices", "control"),
]


@pytest.mark.covering(1)
@pytest.mark.parametrize(("strategy", "where", "name"), RESUMES, ids=str)
@pytest.mark.parametrize(("silos", "liar", "checker"), [((0, 1, 2, 3), 1, 2), ((0, 2, 3), 2, 3)])
def test_what_a_silo_resumes_with_is_what_its_checker_committed_of_it(
    strategy: Strategy, where: str, name: str, silos: tuple[int, ...], liar: int, checker: int
) -> None:
    """Whether all silos or some committed the round."""

    def before(comm: Communicator) -> dict[str, Any]:
        mine = Rank(ElasticGroup(comm), strategy, 1)
        for number in (1, 2):
            mine.round(number)
        return deepcopy(mine.server.state())

    states = dict(zip(silos, run_in_threads(len(silos), before), strict=True))

    def after(comm: Communicator) -> str | list[bytes]:
        mine = Rank(ElasticGroup(comm), strategy, 1)
        state = states.get(comm.rank, states[silos[0]])  # the others' is of an earlier round
        try:
            mine.server.restore(state, silos, member=comm.rank in states)
        except ProtocolError as error:
            return str(error)
        return mine.everything

    honest = run_in_threads(SILOS, after)
    assert all(found == honest[0] for found in honest)
    assert not isinstance(honest[0], str)
    changed(states[liar], where, name)
    index = silos.index(liar)
    for error in run_in_threads(SILOS, after):
        assert f"silo {liar}'s {name} of slice {index} and what silo {checker} committed" in str(error)


def test_each_member_checks_equally_many_slices() -> None:
    for silos in range(2, 8):
        for checkers in (1, 2):
            shards = Shards(1000, tuple(range(silos)), replica_count=1, checkers=min(checkers, silos - 1))
            checked = [shards.checked_by(index, shards.members) for index in range(silos)]
            assert all(index not in by for index, by in enumerate(checked))
            loads = [sum(silo in by for by in checked) for silo in range(silos)]
            assert loads == [min(checkers, silos - 1)] * silos
