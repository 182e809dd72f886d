"""Strategies that look at whole vectors while each server has a slice: parts are added up over all slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl.aggregation import protocols
from silofl.aggregation.magnitudes import measure
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator, SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.config import SecureConfig
from silofl.errors import ProtocolError, UserCodeError
from silofl.strategies.base import State, Strategy
from silofl.topologies.sharded_server import ShardedServer
from silofl.types import Contribution, Total, Vector
from tests.topologies.test_recomputed_slices import outcomes, reads_another_sum

SILOS, SIZE, LIARS = 5, 300, 1
"""Updates in five slices; the last is short."""


@final
@dataclass(frozen=True)
class Krum(Strategy):
    """Step by the update that is nearest to its neighbours (Blanchard et al. 2017, section 4)."""

    needs: ClassVar[Literal["sum", "rows"]] = "rows"

    def part(self, state: State, total: Total) -> NDArray[np.float64]:
        """Squared distances of all pairs of updates, over a slice."""
        assert total.rows is not None
        rows = np.array(total.rows["update"], np.float64)
        squares = (rows[:, None] - rows[None]) ** 2
        return np.asarray(np.add.reduce(squares, axis=2).ravel())

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """model += the update with the smallest sum of distances to its n - f - 2 nearest others."""
        assert total.rows is not None
        rows = total.rows["update"]
        near = np.sort(total.over_slices.reshape(len(rows), len(rows)), axis=1)
        shared["model"][...] += rows[int(near[:, 1 : len(rows) - LIARS - 1].sum(axis=1).argmin())]
        return state


@final
@dataclass(frozen=True)
class Bounded(Strategy):
    """FedAvg whose mean is no longer than 1."""

    def part(self, state: State, total: Total) -> NDArray[np.float64]:
        """The square of the mean's length, over a slice."""
        return np.array([np.add.reduce(total.mean["update"].astype(np.float64) ** 2)])

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """model += mean / max(1, |mean|)."""
        shared["model"][...] += total.mean["update"] / max(1.0, float(np.sqrt(total.over_slices[0])))
        return state


def update(silo: int) -> Any:
    """Near to each other but for that of silo 1, and of silo 3, which the first slice alone would take."""
    found = np.random.default_rng(silo).standard_normal(SIZE).astype(np.float32)
    if silo == 3:
        found[:64], found[64:128] = 0, 20
    return found + 50 * (silo == 1)


def krum(silos: list[int]) -> Any:
    """The algorithm over whole vectors."""
    every = [update(silo).astype(np.float64) for silo in silos]
    scores = [
        sum(
            sorted(float(((a - b) ** 2).sum()) for j, b in enumerate(every) if j != i)[
                : len(every) - LIARS - 2
            ]
        )
        for i, a in enumerate(every)
    ]
    return update(silos[int(np.argmin(scores))])


def stepped(strategy: Strategy, protocol: Literal["plain", "secagg"], *, dying: int = -1) -> list[Any]:
    """What each silo has after a round from zeros, in which one may fail as the step begins."""

    def rank(comm: Communicator) -> Any:
        group, rows = ElasticGroup(comm), strategy.needs == "rows"
        spec = AggregationSpec(
            (VectorSpec("update", SIZE, weighting="uniform"),), np.dtype(np.float32), 1, 0, bytes(32), SILOS,
            replica_count=1, rows=rows, recompute=int(protocol == "secagg"),
        )  # fmt: skip
        secure = SecureConfig(protocol=protocol, bits=32)
        server = ShardedServer(
            group,
            strategy,
            lambda: protocols.build(group, secure, spec),
            np.zeros(SIZE, np.float32),
            SIZE,
        )
        mine = Contribution({"update": update(comm.rank)})
        server.reduce(mine, 1, measure(mine, spec), b"")

        def reach(mark: str) -> None:
            if mark == "step" and comm.rank == dying:
                raise SimulatedCrash

        comm.on_mark(reach)
        server.step(mine.vectors["update"], resync=False)
        return server.values

    return run_in_threads(SILOS, rank)


@pytest.mark.parametrize("dying", [-1, 2])
def test_krum_takes_the_update_that_it_would_of_whole_vectors(dying: int) -> None:
    """Its row stays in the sum where the silo fails after it: only who steps its slice changes."""
    expected = krum(list(range(SILOS)))
    results = stepped(Krum(), "plain", dying=dying)
    assert [silo for silo, found in enumerate(results) if found is None] == [dying] * (dying >= 0)
    for found in results:
        assert found is None or np.array_equal(found, expected)


@pytest.mark.parametrize("protocol", ["plain", "secagg"])
def test_the_length_of_the_mean_is_that_of_the_whole(protocol: Literal["plain", "secagg"]) -> None:
    mean = np.mean([update(silo).astype(np.float64) for silo in range(SILOS)], axis=0)
    first, *others = stepped(Bounded(), protocol)
    np.testing.assert_allclose(first, mean / np.linalg.norm(mean), atol=1e-6)
    assert all(np.array_equal(first, other) for other in others)


def test_a_server_that_lies_about_its_part_is_named() -> None:
    for error in outcomes(Bounded(), 1, reads_another_sum):
        assert str(error).startswith("silo 1's part of slice 1 and silo 2's recomputation of it differ")


def test_parts_of_silos_that_raise_are_raised_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(self: Strategy, state: State, total: Total) -> NDArray[np.float64]:
        raise ProtocolError("no part of it", sender=0)

    monkeypatch.setattr(Bounded, "part", raising)

    def ends() -> None:
        stepped(Bounded(), "plain")

    with pytest.raises(ProtocolError, match="no part of it"):
        ends()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (lambda total: np.zeros(len(total.mean["update"])), r"of one length, .*: there are \[44, 64\]"),
        (lambda total: np.zeros((2, 2)), "has to be a vector"),
        (lambda total: 1.0, "has to be a vector"),
    ],
    ids=["as long as its slice", "two axes", "a number"],
)
@pytest.mark.parametrize("protocol", ["plain", "secagg"])
def test_parts_of_no_use_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, protocol: Literal["plain", "secagg"], part: Any, said: str
) -> None:
    """Without it ranks would gather parts of other lengths than each other."""
    monkeypatch.setattr(Bounded, "part", lambda self, state, total: part(total))
    with pytest.raises(UserCodeError, match=f"^what Bounded.part gives of a slice .*{said}"):
        stepped(Bounded(), protocol)
