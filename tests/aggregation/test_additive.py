"""Additive sharing over ranks: the plain integer sum, for every committee; no mask is used twice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl.aggregation.additive_round import AdditiveRound
from silofl.aggregation.exchange_choice import open_exchange
from silofl.aggregation.magnitudes import measure
from silofl.aggregation.spec import VectorSpec
from silofl.comm import Communicator
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.threads import ThreadCommunicator
from silofl.errors import DataError, ProtocolError
from silofl.types import Contribution
from silofl_kernels import add_masks
from tests.aggregation.harness import (
    KINDS,
    Case,
    expected,
    in_ranks,
    one_vector,
    read,
    reduce_and_read,
    whole,
)
from tests.exchange_ways import WAYS, use

CASES = [
    (3, 2, 16, 1000, 64),
    (3, 3, 8, 1, 9),
    (5, 2, 32, 4099, 999),
    (5, 5, 16, 300, 1 << 19),
    (4, 3, 16, 63, 5),
]


@pytest.mark.covering(1)
@pytest.mark.parametrize(("silos", "members", "bits", "size", "chunk"), CASES)
@pytest.mark.parametrize("way", WAYS)
def test_the_mean_is_that_of_the_plain_integer_sum(
    silos: int,
    members: int,
    bits: Any,
    size: int,
    chunk: int,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("silofl.aggregation.reduce_scatter.CHUNK_BYTES", chunk * bits // 8)
    use(way, monkeypatch)
    dtype = {own: kind for kind, own in KINDS}[bits]
    case = one_vector(silos, size, dtype=dtype, bits=bits, config={"committee": members})

    def rank(comm: Communicator) -> Any:
        group = ElasticGroup(comm)
        aggregator = case.make("additive", group)
        found = reduce_and_read(aggregator, case, group)
        return found, aggregator.sum_scalars(np.array([0.5, -float(comm.rank)]))

    results = in_ranks(silos, rank)
    np.testing.assert_array_equal(whole([found for found, _ in results])["x"], expected(case)["x"])
    assert all(sums.tolist() == [0.5 * silos, -sum(range(silos))] for _, sums in results)
    assert {found.quality.clipped_silos for found, _ in results} == {0}


def three(value: Any, size: int = 10, **config: Any) -> Case:
    given = [Contribution({"x": np.full(size, value(k))}) for k in range(3)]
    return Case((VectorSpec("x", size),), given, [1, 1, 1], np.float64, config={"committee": 3} | config)


@pytest.mark.parametrize("value_range", [None, 1.0])
def test_a_sum_with_values_that_are_not_finite_is_used_by_no_rank(value_range: float | None) -> None:
    good, bad = three(lambda k: 0.5), three(lambda k: np.inf if k == 2 else 1.0)

    def rank(comm: Communicator) -> None:
        group = ElasticGroup(comm)
        aggregator = three(lambda k: 0.0, range=value_range).make("additive", group)
        reduce_and_read(aggregator, good, group)
        own = bad.contributions[comm.rank]
        with pytest.raises(DataError, match=r"x has values that are not finite") as caught:
            aggregator.reduce(own, 2, measure(own, aggregator.spec))
        assert caught.value.rank == 0
        with pytest.raises(RuntimeError, match="nothing was added up"):
            read(aggregator, good, group)

    in_ranks(3, rank)


def test_what_an_owner_receives_of_a_silo_is_not_its_words() -> None:
    """The residual for one owner, over two rounds of the same update, differs and is not the update."""
    seen: list[NDArray[Any]] = []
    case = three(lambda k: 0.0, 256, range=1.0, committee=2)

    def rank(comm: Communicator) -> None:
        group = ElasticGroup(comm)
        aggregator: Any = case.make("additive", group)
        original = aggregator._exchange.alltoall

        def alltoall() -> Any:
            rows = original()
            if comm.rank == 0:
                seen.append(rows[2].copy())
            return rows

        aggregator._exchange.alltoall = alltoall
        for number in (1, 2):
            reduce_and_read(aggregator, case, group, number)

    in_ranks(3, rank)
    first, second = seen[0], seen[2]
    assert (first != 0).mean() > 0.95
    assert (first != second).mean() > 0.95


def test_no_position_of_a_rounds_masks_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors, exponents, tail and later sums of numbers lie one behind the other."""
    case = three(lambda k: 1.0, 200)
    used: dict[tuple[int, int], list[tuple[int, int]]] = {}
    original = AdditiveRound.small_total

    def spy(self: AdditiveRound, words: Any, offset: int) -> Any:
        used.setdefault((id(self), self._comm.rank), []).append((offset, offset + len(words)))
        kept.append(self)
        return original(self, words, offset)

    kept: list[AdditiveRound] = []  # so that no two have one id
    monkeypatch.setattr(AdditiveRound, "small_total", spy)

    def rank(comm: Communicator) -> None:
        group = ElasticGroup(comm)
        aggregator = case.make("additive", group)
        for number in (1, 2):
            reduce_and_read(aggregator, case, group, number)
            for _ in range(2):
                aggregator.sum_scalars(np.ones(3))

    in_ranks(3, rank)
    assert len(used) == 3 * 3
    for places in used.values():
        assert all(end <= start for (_, end), (start, _) in pairwise(sorted(places)))
        assert len(places) == 1 or (len(places) == 4 and min(places)[0] >= 200)


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    "cut", [lambda one: one[:-1], lambda one: one * 2, lambda one: b""], ids=["short", "twice", "none"]
)
@pytest.mark.parametrize("liar", [0, 1, 2], ids=["first member", "member", "no member"])
def test_a_small_sum_of_another_length_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, liar: int, cut: Callable[[bytes], bytes]
) -> None:
    """The first member tells a sum that is too long or too short; or another sends it words that are."""
    case = three(lambda k: 1.0, 40, committee=2)
    name = "broadcast_bytes" if liar == 0 else "alltoall_bytes"
    honest = getattr(ThreadCommunicator, name)
    lies = False

    def changed(self: Any, payload: Any, *root: int) -> Any:
        if lies and self.rank == liar:
            payload = cut(payload) if liar == 0 else [cut(payload[0]), *payload[1:]]
        return honest(self, payload, *root)

    monkeypatch.setattr(ThreadCommunicator, name, changed)

    def rank(comm: Communicator) -> None:
        nonlocal lies
        group = ElasticGroup(comm)
        aggregator = case.make("additive", group)
        reduce_and_read(aggregator, case, group)
        comm.barrier()
        lies = True
        said = f"silo {liar}'s .*small sum.* refused: .* bytes, not "
        with pytest.raises(ProtocolError, match=said) as caught:
            aggregator.sum_scalars(np.ones(3))
        assert caught.value.sender == liar

    in_ranks(3, rank)


def test_sums_of_seeds_are_made_where_no_other_rank_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds alone, without the words that they hide: in a row that others read they must appear whole."""
    case = three(lambda k: 1.0, 200, committee=2)
    shared: list[NDArray[Any]] = []
    written: list[bool] = []

    def make(*given: Any) -> Any:
        exchange = open_exchange(*given)
        for _ in range(2):  # it has two, in turn
            shared.append(exchange.outgoing())
            exchange.alltoall()
        return exchange

    def spy(words: Any, *given: Any, **more: Any) -> None:
        written.append(any(np.shares_memory(words, one) for one in shared))
        add_masks(words, *given, **more)

    monkeypatch.setattr("silofl.aggregation.additive.open_exchange", make)
    monkeypatch.setattr("silofl.aggregation.additive.add_masks", spy)

    def rank(comm: Communicator) -> None:
        group = ElasticGroup(comm)
        reduce_and_read(case.make("additive", group), case, group)

    in_ranks(3, rank)
    assert written == [False] * 2  # each of two members for the other's slice
