"""Sums that pass through groups of ranks, or to one rank alone, are the flat ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from silofl.aggregation.exchanges import HostExchange
from silofl.aggregation.magnitudes import measure
from silofl.aggregation.protocols import PROTOCOLS
from silofl.aggregation.sum_terms import Common
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.group_tree import silos_of
from silofl.comm.protocol import Communicator
from silofl.crypto.threshold import threshold_of
from silofl.types import Contribution
from tests.aggregation.harness import Case, Means, in_ranks, one_vector, reduce_and_read, whole
from tests.exchange_ways import use_hosts
from tests.rank_groups import GROUPINGS, TWO_OF_FOUR


def summed(case: Case, protocol: str, groups: Any = (), *, routed: bool = True) -> tuple[Means, int]:
    """The mean, and what all ranks together sent to other groups."""

    def rank(comm: Communicator) -> tuple[Any, int]:
        comm.arrange(groups, routed=routed)
        group = ElasticGroup(comm)
        aggregator, before = case.make(protocol, group), comm.bytes_between_groups
        found = reduce_and_read(aggregator, case, group)
        found = replace(found, mean={name: part.copy() for name, part in found.mean.items()})
        between = comm.bytes_between_groups - before
        aggregator.close()
        return found, between

    every = in_ranks(case.silos, rank)
    return whole([one for one, _ in every]), sum(between for _, between in every)


@pytest.mark.parametrize("groups", GROUPINGS, ids=str)
def test_the_secure_sum_through_groups_is_the_flat_one_bit_for_bit(groups: Any) -> None:
    case = one_vector(len(silos_of(groups)), 700)
    flat, _ = summed(case, "secagg")
    grouped, _ = summed(case, "secagg", groups)
    np.testing.assert_array_equal(grouped["x"], flat["x"])


def test_groups_that_are_hosts_go_through_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    case = one_vector(5, 700)
    flat, _ = summed(case, "secagg")
    use_hosts((0, 1, 0, 1, 1), monkeypatch)
    used = list[str]()
    begin = HostExchange.alltoall
    monkeypatch.setattr(HostExchange, "alltoall", lambda self: (used.append("host"), begin(self))[1])
    grouped, between = summed(case, "secagg", ((0, 2), (1, 3, 4)))
    np.testing.assert_array_equal(grouped["x"], flat["x"])
    assert used
    assert between > 0


def test_the_sum_in_the_clear_is_rounded_where_it_passes_on() -> None:
    case = one_vector(8, 700, dtype=np.float64)
    flat, _ = summed(case, "plain")
    grouped, _ = summed(case, "plain", GROUPINGS[1])
    np.testing.assert_allclose(grouped["x"], flat["x"], rtol=1e-13, atol=0)


def test_a_quarter_passes_between_two_groups_of_four() -> None:
    """In the clear exactly; of a secure sum keys have shares for each silo alone, as many without groups."""
    lengths = 64 * 8 * 20, 64 * 8 * 200
    _, plain = summed(one_vector(8, lengths[0]), "plain", TWO_OF_FOUR)
    _, flat = summed(one_vector(8, lengths[0]), "plain", TWO_OF_FOUR, routed=False)
    assert 4 * plain == flat == 4 * 4 * lengths[0]
    found = [
        [summed(one_vector(8, length), "secagg", TWO_OF_FOUR, routed=way)[1] for length in lengths]
        for way in (True, False)
    ]
    more = [two - one for one, two in found]
    assert 4 * more[0] == more[1] == 4 * 2 * (lengths[1] - lengths[0]), "of words a quarter"
    assert found[0][1] < 0.265 * found[1][1]


def test_one_rank_has_the_whole_sum_of_the_others_and_brings_nothing() -> None:
    case = one_vector(4, 700)
    alone, _ = summed(case, "secagg")
    seen = dict[int, int]()

    def rank(comm: Communicator) -> Any:
        group, sole = ElasticGroup(comm), 2
        silo = comm.rank - (comm.rank > sole)
        spec = replace(case.spec(silo), coordinators=(sole,), sole=sole)
        given = case.contributions[silo]
        if comm.rank == sole:
            spec, given = replace(spec, samples=0), Contribution({"x": np.zeros(700, np.float32)})
        aggregator: Any = PROTOCOLS["secagg"].build(group, case.secure("secagg"), spec, None)
        rules = aggregator._sum.session.rules
        assert rules.threshold == threshold_of(case.secure("secagg"), 4) + 1, (
            "silos alone are as many as without"
        )
        aggregator.reduce(given, 1, measure(given, spec), common=Common(absent=(sole,)))
        lengths = {index: aggregator.total(index).mean["x"].size for index in (comm.rank,)}
        seen.update(lengths)
        found = aggregator.total(sole).mean["x"].copy() if comm.rank == sole else None
        assert aggregator.participants == (0, 1, 3, 4)
        aggregator.close()
        return found

    found = in_ranks(5, rank)
    np.testing.assert_array_equal(found[2], alone["x"])
    assert seen == {0: 0, 1: 0, 2: 700, 3: 0, 4: 0}
