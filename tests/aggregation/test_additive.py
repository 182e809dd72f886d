"""Additive sharing over ranks: the plain integer sum, for every committee."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl.aggregation.additive import Additive
from silofl.aggregation.fixed_point import fixed_point
from silofl.aggregation.row_exchange import MessageExchange
from silofl.aggregation.secure_session import open_session
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.crypto.secagg import Rules
from silofl.errors import DataError
from tests.aggregation.test_secagg_exact import updates

CASES = [
    (3, 2, 16, 1000, 64),
    (3, 3, 8, 1, 9),
    (5, 2, 32, 4099, 999),
    (5, 5, 16, 300, 1 << 19),
    (4, 3, 16, 63, 5),
]


@pytest.mark.parametrize(("silos", "members", "bits", "size", "chunk"), CASES)
@pytest.mark.parametrize("messages", [False, True], ids=["window", "messages"])
def test_the_mean_is_that_of_the_plain_integer_sum(
    silos: int,
    members: int,
    bits: Any,
    size: int,
    chunk: int,
    messages: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if messages:
        monkeypatch.setattr("silofl.aggregation.additive.open_exchange", MessageExchange)
    values = [value.astype(np.float64) for value in updates(silos, size)]
    weights = [10 ** (k % 8) for k in range(silos)]
    value_range = float(max(np.abs(v).max() for v in values))

    def rank(comm: Communicator) -> tuple[NDArray[Any], NDArray[Any], int]:
        session = open_session(ElasticGroup(comm), Rules(bits=bits), bytes(32))
        aggregator = Additive(
            session,
            size,
            np.dtype(np.float64),
            weight=weights[comm.rank],
            committee=members,
            value_range=value_range,
            chunk=chunk,
        )
        aggregator.reduce(values[comm.rank], 1)
        mean = aggregator.mean(comm.rank)
        numbers = aggregator.sum_scalars(np.array([0.5, -float(comm.rank)]))
        return mean, numbers, aggregator.clipped_silos

    results = run_in_threads(silos, rank)
    total = np.zeros(size)
    for value, weight in zip(values, weights, strict=True):
        numbers = fixed_point(bits, value_range, silos, weight / sum(weights), stochastic=False)
        total += np.clip(np.rint(value * numbers.scale), -numbers.limit, numbers.limit)
    np.testing.assert_array_equal(np.concatenate([mean for mean, _, _ in results]), total * numbers.step)
    assert all(sums.tolist() == [0.5 * silos, -sum(range(silos))] for _, sums, _ in results)
    assert {clipped for *_, clipped in results} == {0}


def test_values_that_are_not_finite_are_not_sent() -> None:
    def rank(comm: Communicator) -> None:
        x = np.full(10, np.inf if comm.rank == 2 else 1.0)
        session = open_session(ElasticGroup(comm), Rules(), bytes(32))
        aggregator = Additive(session, 10, np.dtype(np.float64), weight=1, committee=3)
        with pytest.raises(DataError, match="a silo has values that are not finite"):
            aggregator.reduce(x, 1)

    run_in_threads(3, rank)


def test_what_an_owner_receives_of_a_silo_is_not_its_words() -> None:
    """The residual for one owner, over two rounds of the same update, differs and is not the update."""
    seen: list[NDArray[Any]] = []

    def rank(comm: Communicator) -> None:
        session = open_session(ElasticGroup(comm), Rules(), bytes(32))
        aggregator = Additive(session, 256, np.dtype(np.float64), weight=1, committee=2, value_range=1.0)
        for number in (1, 2):
            original = aggregator._exchange.alltoall

            def alltoall(original: Any = original) -> Any:
                rows = original()
                if comm.rank == 0:
                    seen.append(rows[2].copy())
                return rows

            aggregator._exchange.alltoall = alltoall  # type: ignore[method-assign]
            aggregator.reduce(np.zeros(256), number)
            aggregator._exchange.alltoall = original  # type: ignore[method-assign]

    run_in_threads(3, rank)
    first, second = seen[0], seen[2]
    assert (first != 0).mean() > 0.95
    assert (first != second).mean() > 0.95
