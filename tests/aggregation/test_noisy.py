"""Sums of words, and sums with noise: exact where there is none, noisy before anybody can read
them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl.aggregation.base import WordAggregator
from silofl.aggregation.noisy import Noise, NoisySum, RetryRound
from silofl.aggregation.protocols import AggregationSpec, build
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator, SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.config import SecureConfig
from silofl.crypto.noise_keys import NoiseKeys
from silofl.crypto.secret import Secret
from silofl.errors import StoppedError
from silofl.privacy.grid import Grid
from silofl.types import Update
from silofl_kernels import Stream, discrete_gaussian

SILOS = 4


def aggregator(
    group: ElasticGroup, protocol: str, size: int, bits: int = 32, replica_count: int = 0
) -> WordAggregator:
    config, silos = SecureConfig(protocol=protocol, bits=bits), len(group.members)  # type: ignore[arg-type]
    sums = AggregationSpec(size, np.dtype(np.float32), 10 + group.silo_id, 0, bytes(32), silos, replica_count)
    return build(group, config, sums)


def slices(one: WordAggregator, read: Callable[[int], NDArray[Any]], comm: Communicator) -> NDArray[Any]:
    index = one.shards.members.index(comm.rank)
    return read(index).copy()


@pytest.mark.parametrize("protocol", ["plain", "secagg", "additive"])
@pytest.mark.parametrize("size", [1, 63, 300, 5000])
def test_a_sum_of_words_is_the_sum_in_the_ring(protocol: str, size: int) -> None:
    rng = np.random.default_rng(size)
    words = rng.integers(0, 2**32, (SILOS, size), dtype=np.uint32)

    def body(comm: Communicator) -> NDArray[Any]:
        one, before = aggregator(ElasticGroup(comm), protocol, size), words[comm.rank].copy()
        asked: list[tuple[int, ...]] = []
        one.reduce_words(before, asked.append)
        assert asked == [(0, 1, 2, 3)]
        assert one.summed_weight == pytest.approx(10 + 11 + 12 + 13)
        np.testing.assert_array_equal(before, words[comm.rank])
        return slices(one, one.words, comm)

    total = np.concatenate(run_in_threads(SILOS, body))
    np.testing.assert_array_equal(total, np.add.reduce(words, axis=0, dtype=np.uint32))


@pytest.mark.parametrize("protocol", ["plain", "secagg", "additive"])
def test_what_is_not_permitted_stays_unread_on_every_rank(protocol: str) -> None:
    def body(comm: Communicator) -> str:
        one = aggregator(ElasticGroup(comm), protocol, 200)

        def refuse(silos: tuple[int, ...]) -> None:
            if comm.rank == 2:
                raise StoppedError("too dear")

        with pytest.raises(StoppedError, match="too dear") as caught:
            one.reduce_words(np.zeros(200, np.uint32), refuse)
        return str(caught.value)

    assert run_in_threads(SILOS, body) == ["too dear"] * SILOS


class Open:
    """A gate that lets everything pass, and can be told that a round was read before."""

    def __init__(self, *, other: bool = False) -> None:
        self.attempts, self._other = 0, other
        self.permitted: list[tuple[int, ...]] = []

    def attempt(self, round_number: int) -> int:
        return self.attempts

    def repeats(self, round_number: int, attempt: int, tag: str) -> bool:
        self.attempts += self._other
        return not self._other

    def authorize(self, round_number: int, attempt: int, tag: str, silos: tuple[int, ...]) -> None:
        self.permitted.append(silos)


def noisy(
    group: ElasticGroup,
    size: int,
    *,
    protocol: str = "secagg",
    central: bool = False,
    variance: float = 64.0,
    rotation: bool = False,
    gate: Open | None = None,
    replica_count: int = 0,
) -> NoisySum:
    grid = Grid(step=2.0**-12, limit=1 << 20, sensitivity=100.0, share=variance)
    stream = Stream("aes-128-ctr", bytes(16)) if rotation else None
    keys = NoiseKeys(Secret(bytes([group.silo_id + 1] * 32)), bytes(16), group.silo_id)
    noise = Noise(grid, discrete_gaussian(variance), central, stream)
    inner = aggregator(group, protocol, size, replica_count=replica_count)
    return NoisySum(inner, noise, keys, gate or Open(), lambda inner: 2.0)


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize(
    ("central", "protocol", "sources"), [(False, "secagg", SILOS), (True, "secagg", 1), (True, "plain", 1)]
)
def test_a_mean_is_the_sum_with_the_noise_promised(
    central: bool, protocol: str, sources: int, rotation: bool
) -> None:
    size, variance = 20_000, 400.0
    x = np.random.default_rng(0).uniform(-1, 1, (SILOS, size)).astype(np.float32)

    def body(comm: Communicator) -> NDArray[Any]:
        one = noisy(
            ElasticGroup(comm), size, protocol=protocol, central=central, variance=variance, rotation=rotation
        )
        one.reduce(Update(x[comm.rank]), 3)
        first, again = slices(one, one.mean, comm), slices(one, one.mean, comm)
        np.testing.assert_array_equal(first, again)  # read twice it is the same, or noise would average out
        return first

    mean = np.concatenate(run_in_threads(SILOS, body))
    error = (mean - x.sum(axis=0) / 2) * 2 / 2.0**-12  # in units of the grid
    expected = variance * sources + SILOS / 4 * 2 / 3  # rounding by coins adds 1/6 a silo
    assert error.var() == pytest.approx(expected, rel=0.05)
    assert abs(error.mean()) < 4 * np.sqrt(expected / size)


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize(
    ("deaths", "summed"),
    [
        ({1: "collect last"}, (0, 2, 3, 4)),
        ({0: "mask", 4: "collect first"}, (1, 2, 3)),
        ({3: "reveal"}, (0, 1, 2, 3, 4)),
        ({2: "collect first", 3: "unmask"}, (0, 1, 3, 4)),
    ],
)
def test_a_sum_with_silos_missing_has_the_noise_of_those_in_it(
    deaths: dict[int, str], summed: tuple[int, ...], rotation: bool
) -> None:
    """Under secagg, over the silos whose words it has, whether they lived to see it opened or not."""
    silos, size, variance = 5, 20_000, 400.0
    x = np.random.default_rng(0).uniform(-1, 1, (silos, size)).astype(np.float32)

    def body(comm: Communicator) -> dict[int, NDArray[Any]]:
        group, gate, armed = ElasticGroup(comm), Open(), threading.Event()

        def reach(step: str) -> None:
            if armed.is_set() and step == deaths.get(comm.rank):
                raise SimulatedCrash

        comm.on_mark(reach)
        one = noisy(group, size, variance=variance, rotation=rotation, gate=gate, replica_count=2)
        armed.set()
        one.reduce(Update(x[group.silo_id]), 3)
        assert one.participants == gate.permitted[-1] == summed
        return {index: one.mean(index) for index in one.shards.slices_of(group.silo_id, group.members)}

    results = run_in_threads(silos, body)
    assert [silo for silo, found in enumerate(results) if found is None] == sorted(deaths)
    slices = {index: mean for found in results if found is not None for index, mean in found.items()}
    mean = np.concatenate([slices[index] for index in range(silos)])
    error = (mean - x[list(summed)].sum(axis=0) / 2) * 2 / 2.0**-12
    expected = len(summed) * (variance + 1 / 6)
    assert error.var() == pytest.approx(expected, rel=0.05)
    assert abs(error.mean()) < 4 * np.sqrt(expected / size)


def test_noise_differs_from_round_to_round_and_from_silo_to_silo() -> None:
    def body(comm: Communicator) -> tuple[NDArray[Any], NDArray[Any]]:
        one, zeros = noisy(ElasticGroup(comm), 4000), Update(np.zeros(4000, np.float32))
        rounds = []
        for number in (1, 2):
            one.reduce(zeros, number)
            rounds.append(slices(one, one.mean, comm))
        return one._words(zeros, 1, 0).view(np.int32), np.stack(rounds)

    results = run_in_threads(SILOS, body)
    own = np.stack([words for words, _ in results])
    assert np.abs(np.corrcoef(own) - np.eye(SILOS)).max() < 0.1
    rounds = np.concatenate([pair for _, pair in results], axis=1)
    assert abs(np.corrcoef(rounds)[0, 1]) < 0.1


def test_the_same_round_from_the_same_values_shows_the_same() -> None:
    def body(comm: Communicator) -> tuple[NDArray[Any], NDArray[Any]]:
        x = Update(np.full(300, 0.1 * comm.rank, np.float32))
        both = []
        for _ in range(2):
            one = noisy(ElasticGroup(comm), 300)
            one.reduce(x, 7)
            both.append(slices(one, one.mean, comm))
        return both[0], both[1]

    for first, again in run_in_threads(SILOS, body):
        np.testing.assert_array_equal(first, again)


def test_other_values_than_a_killed_run_showed_are_not_shown_with_the_same_noise() -> None:
    def body(comm: Communicator) -> None:
        gate = Open(other=True)
        one = noisy(ElasticGroup(comm), 300, gate=gate)
        with pytest.raises(RetryRound):
            one.reduce(Update(np.zeros(300, np.float32)), 1)
        assert gate.permitted == []

    run_in_threads(SILOS, body)
