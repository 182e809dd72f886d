"""Silos that die at every step of a sum: those that are left have the exact sum of those that took part."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl.aggregation.magnitudes import measure
from silofl.aggregation.plain import PlainAggregator
from silofl.aggregation.secagg import SecAgg, SecAggSum
from silofl.aggregation.secure_session import open_session
from silofl.aggregation.shards import Shards
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm import Communicator, run_in_threads
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import SimulatedCrash
from silofl.crypto.secagg import Rules
from silofl.types import Contribution
from tests.campaigns import mostly_long
from tests.exchange_ways import UNEQUAL, WAYS, use, use_hosts

SIZE, CHUNK = 700, 256
BEFORE = ("advertise", "share", "mask", "collect first", "collect middle", "collect last")
AFTER = ("reveal", "unmask", "use")
COUNTED = {"agree"}
"""Whoever dies as it reaches this has handed out all its words, but nobody may know yet that all have."""


class Fault:
    """Ends a rank's life when it reaches a step, once it is armed."""

    def __init__(self, comm: Communicator, step: str | None) -> None:
        self._step, self.armed = step, False
        comm.on_mark(self.reach)

    def reach(self, step: str) -> None:
        if self.armed and step == self._step:
            raise SimulatedCrash


def values_of(silo: int) -> NDArray[np.float64]:
    return np.random.default_rng(silo).uniform(-1, 1, SIZE)


def run(silos: int, deaths: dict[int, str], make: Any) -> list[Any]:
    """What every rank has in the end, None if dead.

    Participants, pairs of (index, mean), sums of numbers, how many silos the total has, mean of a scalar.
    """

    def rank(comm: Communicator) -> Any:
        fault = Fault(comm, deaths.get(comm.rank))
        group = ElasticGroup(comm)
        aggregator = make(group)
        fault.armed = True
        own = Contribution({"x": values_of(group.silo_id)}, {"silo": float(group.silo_id)})
        aggregator.reduce(own, 1, measure(own, aggregator.spec))
        fault.reach("use")
        group.step(lambda: None)
        served = aggregator.layout.shards.slices_of(group.silo_id, group.members)
        parts = [(index, aggregator.total(index).mean["x"].copy()) for index in served]
        for index in served if aggregator.spec.rows else ():
            rows, here = aggregator.total(index).rows["x"], slice(*aggregator.layout.spans["x"].span(index))
            for silo, row in zip(aggregator.participants, rows, strict=True):
                np.testing.assert_array_equal(row, values_of(silo)[here])
        numbers = aggregator.sum_scalars(np.array([1.0, float(group.silo_id)]))
        total = aggregator.total(parts[0][0])
        return aggregator.participants, parts, numbers.tolist(), total.silos, total.scalars["silo"]

    return run_in_threads(silos, rank, timeout_s=100)


def spec(group: ElasticGroup, replica_count: int) -> AggregationSpec:
    samples, silos = group.silo_id + 1, len(group.members)
    vectors = (VectorSpec("x", SIZE),)
    return AggregationSpec(
        vectors, np.dtype(np.float64), samples, 0, bytes(32), silos, replica_count, ("silo",)
    )


def secagg(group: ElasticGroup, threshold: int | None = None) -> SecAgg:
    session = open_session(group, Rules(bits=32, threshold=threshold), bytes(32))
    copies = min(len(group.members) - 3, 2)
    return SecAgg(SecAggSum(session, spec(group, copies), value_range=1.0, chunk=CHUNK))


def plain(group: ElasticGroup) -> PlainAggregator:
    return PlainAggregator(group, spec(group, 2), chunk=CHUNK)


def rows(group: ElasticGroup) -> PlainAggregator:
    return PlainAggregator(group, replace(spec(group, 2), rows=True), chunk=CHUNK)


def check(results: list[Any], deaths: dict[int, str], tolerance: float) -> None:
    left = [silo for silo in range(len(results)) if silo not in deaths]
    assert [silo for silo, result in enumerate(results) if result is not None] == left
    participants = {results[silo][0] for silo in left}
    assert len(participants) == 1
    (summed,) = participants
    for silo, step in deaths.items():
        assert step in COUNTED or (silo in summed) == (step in AFTER)
    assert set(left) <= set(summed)
    weights = [silo + 1 for silo in summed]
    expected = np.average([values_of(silo) for silo in summed], axis=0, weights=weights)
    parts = dict(part for silo in left for part in results[silo][1])
    mean = np.concatenate([parts[index] for index in range(len(results))])
    np.testing.assert_allclose(mean, expected, atol=tolerance)
    for silo in left:
        assert results[silo][2] == [len(left), sum(left)]
        assert results[silo][3] == len(summed)
        assert abs(results[silo][4] - np.average(summed, weights=weights)) < 1e-12


@pytest.mark.covering(1)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", [*BEFORE, "agree", *AFTER])
@pytest.mark.parametrize("silos", [4, 5])
def test_a_silo_dies(silos: int, step: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(way, monkeypatch)
    for silo in range(silos):
        check(run(silos, {silo: step}, secagg), {silo: step}, 1e-7)


@pytest.mark.covering(1)
@pytest.mark.parametrize("places", UNEQUAL, ids=str)
@pytest.mark.parametrize("step", [*BEFORE, "agree", *AFTER])
def test_a_silo_dies_on_unequal_hosts(
    step: str, places: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perhaps the only one of its host, or the one for which all others there add up."""
    use_hosts(places, monkeypatch)
    for silo in range(len(places)):
        check(run(len(places), {silo: step}, secagg), {silo: step}, 1e-7)


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("way", "every"),
    mostly_long(
        [("messages", False), ("hosts", False), ("memory", True), ("messages", True), ("hosts", True)], 0, 1
    ),
)
def test_two_silos_die(way: str, every: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair of silos at each pair of steps, or in turn at one of them."""
    use(way, monkeypatch)
    pairs = [("collect last", "collect last"), ("mask", "reveal"), ("reveal", "unmask"), ("use", "use")]
    for turn, (first, second) in enumerate(combinations(range(5), 2)):
        for steps in pairs if every else [pairs[turn % len(pairs)]]:
            deaths = dict(zip((first, second), steps, strict=True))
            check(run(5, deaths, partial(secagg, threshold=3)), deaths, 1e-7)


@pytest.mark.covering(1)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [plain, rows])
@pytest.mark.parametrize("step", ["collect first", "collect last", "use"])
def test_a_silo_dies_in_a_plain_sum(step: str, make: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(way, monkeypatch)
    for silo in range(4):
        check(run(4, {silo: step}, make), {silo: step}, 1e-12)


def test_territories_are_adjacent_and_kept_by_who_takes_over() -> None:
    for silos in range(1, 8):
        shards = Shards(1000, tuple(range(silos)), replica_count=2)
        for gone in [set(), *({a, b} for a in range(silos) for b in range(silos))]:
            left = [silo for silo in range(silos) if silo not in gone]
            if not left:
                continue
            served = [shards.slices_of(member, left) for member in left]
            assert [index for indices in served for index in indices] == list(range(silos))
            offsets = shards.owned_ranges(left)
            assert offsets[-1] == 1000
            for member, indices in zip(left, served, strict=True):
                taken = [index for index in indices if index != member]
                assert all(member in shards.replicas(index) for index in taken)
