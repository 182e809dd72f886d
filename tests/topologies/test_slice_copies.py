"""A round that outlives a host: what lost silos served comes from copies on the others."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.rendezvous import Group
from silofl.comm.threads import ThreadCommunicator, run_in_threads
from silofl.errors import CheckpointError, ProtocolError
from silofl.strategies import registry
from silofl.strategies.base import Strategy
from tests.topologies.test_sharded_server import EVERY, EXTRA, Rank, Whole

HOSTS = (0, 0, 1, 1, 2)
SILOS = len(HOSTS)
MOMENTUM = registry.STRATEGIES["fedavg"](lr=0.7, momentum=0.5)
State = dict[str, Any]


def committed(strategy: Strategy, hosts: tuple[int, ...] = HOSTS) -> tuple[list[State], list[str]]:
    """Every silo's state after two rounds, and the digest that it has of all of it."""

    def rank(comm: Communicator) -> tuple[State, str]:
        mine = Rank(ElasticGroup(comm, fault_tolerant=False), strategy, EXTRA)
        for number in (1, 2):
            mine.round(number)
        common = mine.server.keep_copies()
        return deepcopy(mine.server.state()), common

    states, common = zip(*run_in_threads(SILOS, rank, host_of=lambda rank: hosts[rank]), strict=True)
    return list(states), list(common)


def go_on(strategy: Strategy, states: list[State], left: tuple[int, ...], *, rounds: int = 2) -> list[Any]:
    """What the silos that are left have after that many more rounds."""

    def rank(comm: ThreadCommunicator) -> list[bytes] | None:
        world = comm._rendezvous.group.world  # type: ignore[union-attr]
        part = comm._enter("part", payload=Group(world, left)).wait()[0]
        if comm.rank not in left:
            return None
        own = ThreadCommunicator(part.first, left.index(comm.rank))
        mine = Rank(ElasticGroup(own), strategy, EXTRA, silos=SILOS)
        state = states[comm.rank]
        mine.server.restore(state or None, tuple(range(SILOS)), member=bool(state))
        for number in range(3, 3 + rounds):
            mine.round(number)
        return mine.everything

    return [one for one in run_in_threads(SILOS, rank) if one is not None]


@pytest.mark.covering(1)
@EVERY
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_round_outlives_each_host(strategy: Strategy, lost: int) -> None:
    states, common = committed(strategy)
    assert len(set(common)) == 1
    assert common[0]
    left = tuple(silo for silo in range(SILOS) if HOSTS[silo] != lost)
    whole = Whole(strategy, EXTRA, SILOS)
    for number in (1, 2, 3, 4):
        whole.round(number, tuple(range(SILOS)) if number < 3 else left)
    assert go_on(strategy, states, left) == [whole.everything] * len(left)


def test_a_silo_that_was_left_out_comes_back_without_its_slice() -> None:
    """All are there, but silo 2 has no state of the round, which has slices of all five."""
    states, _ = committed(MOMENTUM)
    states[2] = {}
    whole, everybody = Whole(MOMENTUM, EXTRA, SILOS), tuple(range(SILOS))
    for number in (1, 2, 3):
        whole.round(number, everybody)
    assert go_on(MOMENTUM, states, everybody, rounds=1) == [whole.everything] * SILOS


def test_without_a_copy_it_is_one_sentence_with_the_silos() -> None:
    states, _ = committed(MOMENTUM)
    with pytest.raises(CheckpointError, match="without silo 0 the round cannot be restored"):
        go_on(MOMENTUM, states, (1, 3, 4))


def test_on_one_host_there_are_none() -> None:
    states, common = committed(MOMENTUM, (0,) * SILOS)
    assert common == [""] * SILOS
    assert not any("copies" in state for state in states)
    with pytest.raises(CheckpointError, match="without silo 4 the round cannot be restored"):
        go_on(MOMENTUM, states, (0, 1, 2, 3))


@pytest.mark.parametrize("what", ["slices", "strategy"])
def test_a_copy_that_was_changed_is_refused_by_name(what: str) -> None:
    states, _ = committed(MOMENTUM)
    for values in states[4]["copies"]["kept"]["2"][what].values():
        values[:1] += 1
    with pytest.raises(ProtocolError, match=r"silo 4's .* of slice 2 and what silo"):
        go_on(MOMENTUM, states, (0, 1, 4))


def test_a_server_that_tells_another_digest_is_found_at_the_commit() -> None:
    def rank(comm: Communicator) -> None:
        mine = Rank(ElasticGroup(comm, fault_tolerant=False), MOMENTUM, EXTRA)
        mine.round(1)
        if comm.rank == 2:
            mine.server.values[128] += 1  # of its own slice, which all others have as it was
        mine.server.keep_copies()

    with pytest.raises(ProtocolError, match="silo 2's model of slice 2 and what silo 4 committed"):
        run_in_threads(SILOS, rank, host_of=lambda rank: HOSTS[rank])
