"""Sums of words, and sums through transforms: exact without noise, noisy before any rank can read them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl.aggregation.base import Aggregator
from silofl.aggregation.protocols import build
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.transformed import Binding, RetryRound, TransformedSum
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator, SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.config import SecureConfig
from silofl.crypto.noise_keys import NoiseKeys
from silofl.crypto.secret import Secret
from silofl.errors import StoppedError
from silofl.privacy.grid import Grid
from silofl.privacy.places import PLACES
from silofl.transforms.integer_grid import IntegerGrid
from silofl.transforms.rotation import Rotation
from silofl.types import Contribution
from silofl_kernels import Stream, add_noise, discrete_gaussian, quantize

SILOS = 4


def spec_of(
    group: ElasticGroup, sizes: dict[str, int], format: str = "words", replica_count: int = 0
) -> AggregationSpec:
    vectors = tuple(VectorSpec(name, size, format) for name, size in sizes.items())
    silos, samples = len(group.members), 10 + group.silo_id
    return AggregationSpec(vectors, np.dtype(np.float32), samples, 0, bytes(32), silos, replica_count)


def aggregator(
    group: ElasticGroup,
    protocol: str,
    sizes: dict[str, int],
    bits: int = 32,
    replica_count: int = 0,
    threshold: int | None = None,
) -> Aggregator:
    config = SecureConfig(protocol=protocol, bits=bits, threshold=threshold)  # type: ignore[arg-type]
    return build(group, config, spec_of(group, sizes, replica_count=replica_count))


def update(values: Any) -> Contribution:
    return Contribution({"update": np.asarray(values)})


def own_slice(one: Aggregator, comm: Communicator, name: str = "update") -> NDArray[Any]:
    return one.total(one.layout.shards.members.index(comm.rank)).mean[name].copy()


@pytest.mark.parametrize("protocol", ["plain", "secagg", "additive"])
@pytest.mark.parametrize("size", [1, 63, 300, 5000])
def test_a_sum_of_words_is_the_sum_in_the_ring(protocol: str, size: int) -> None:
    rng = np.random.default_rng(size)
    words = rng.integers(0, 2**32, (SILOS, size), dtype=np.uint32)

    def body(comm: Communicator) -> NDArray[Any]:
        one = aggregator(ElasticGroup(comm), protocol, {"update": size})
        before, asked = words[comm.rank].copy(), list[tuple[int, ...]]()
        one.reduce(update(before), 1, {}, asked.append)
        assert asked == [(0, 1, 2, 3)]
        assert one.summed_samples == pytest.approx(10 + 11 + 12 + 13)
        np.testing.assert_array_equal(before, words[comm.rank])
        return own_slice(one, comm)

    total = np.concatenate(run_in_threads(SILOS, body))
    np.testing.assert_array_equal(total, np.add.reduce(words, axis=0, dtype=np.uint32))


@pytest.mark.parametrize("protocol", ["plain", "secagg", "additive"])
def test_what_is_not_permitted_stays_unread_on_every_rank(protocol: str) -> None:
    def body(comm: Communicator) -> str:
        one = aggregator(ElasticGroup(comm), protocol, {"update": 200})

        def refuse(silos: tuple[int, ...]) -> None:
            if comm.rank == 2:
                raise StoppedError("too dear")

        with pytest.raises(StoppedError, match="too dear") as caught:
            one.reduce(update(np.zeros(200, np.uint32)), 1, {}, refuse)
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


STEP = 2.0**-12


def noisy(
    group: ElasticGroup,
    sizes: dict[str, int],
    *,
    protocol: str = "secagg",
    place: str = "distributed",
    variance: float = 64.0,
    rotation: bool = False,
    gate: Open | None = None,
    replica_count: int = 0,
    bits: int = 32,
    threshold: int | None = None,
) -> TransformedSum:
    grid = Grid(step=STEP, limit=1 << 20, sensitivity=100.0, share=variance)
    keys = NoiseKeys(Secret(bytes([group.silo_id + 1] * 32)), bytes(16), group.silo_id, run=bytes(16))

    def bind(number: int, attempt: int, words: Any) -> Binding:
        return Binding(keys.fingerprint("sum", number, attempt, words))

    noise = PLACES[place].noise(discrete_gaussian(variance), keys)
    assert noise is not None
    rotations = [Rotation(Stream("aes-128-ctr", bytes(16)))] if rotation else []
    transforms = [*rotations, IntegerGrid(grid, keys), noise]
    inner = aggregator(group, protocol, sizes, bits, replica_count, threshold)
    spec = spec_of(group, sizes, "scaled", replica_count)
    ring = np.dtype(f"u{bits // 8}")
    return TransformedSum(
        inner, spec, ring, transforms, gate or Open(), bind, lambda inner: 2.0, silo=group.silo_id
    )


@pytest.mark.covering(0)
@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize(
    ("place", "protocol"), [("distributed", "secagg"), ("central", "secagg"), ("central", "plain")]
)
def test_a_mean_is_the_sum_with_the_noise_promised(place: str, protocol: str, rotation: bool) -> None:
    size, variance = 20_000, 400.0
    x = np.random.default_rng(0).uniform(-1, 1, (SILOS, size)).astype(np.float32)

    def body(comm: Communicator) -> NDArray[Any]:
        group, sizes = ElasticGroup(comm), {"update": size}
        one = noisy(group, sizes, protocol=protocol, place=place, variance=variance, rotation=rotation)
        brought = update(x[comm.rank].copy())
        one.reduce(brought, 3, {})
        np.testing.assert_array_equal(brought.vectors["update"], x[comm.rank])
        first, again = own_slice(one, comm), own_slice(one, comm)
        np.testing.assert_array_equal(first, again)  # read twice it is the same, or noise would average out
        return first

    mean = np.concatenate(run_in_threads(SILOS, body))
    error = (mean - x.sum(axis=0) / 2) * 2 / STEP  # in units of the grid
    expected = variance * PLACES[place].sources(SILOS) + SILOS / 6  # rounding by coins adds 1/6 a silo
    assert error.var() == pytest.approx(expected, rel=0.05)
    assert abs(error.mean()) < 4 * np.sqrt(expected / size)


@pytest.mark.covering(0)
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
        one = noisy(
            group,
            {"update": size},
            variance=variance,
            rotation=rotation,
            gate=gate,
            replica_count=2,
            threshold=3,  # which two losses of five leave
        )
        armed.set()
        one.reduce(update(x[group.silo_id]), 3, {})
        assert one.participants == gate.permitted[-1] == summed
        served = one.layout.shards.slices_of(group.silo_id, group.members)
        return {index: one.total(index).mean["update"] for index in served}

    results = run_in_threads(silos, body)
    assert [silo for silo, found in enumerate(results) if found is None] == sorted(deaths)
    slices = {index: mean for found in results if found is not None for index, mean in found.items()}
    mean = np.concatenate([slices[index] for index in range(silos)])
    error = (mean - x[list(summed)].sum(axis=0) / 2) * 2 / STEP
    expected = len(summed) * (variance + 1 / 6)
    assert error.var() == pytest.approx(expected, rel=0.05)
    assert abs(error.mean()) < 4 * np.sqrt(expected / size)


def test_noise_differs_from_round_to_round_and_from_silo_to_silo() -> None:
    def body(comm: Communicator) -> tuple[NDArray[Any], NDArray[Any]]:
        one, rounds = noisy(ElasticGroup(comm), {"update": 4000}), []
        for number in (2, 1):
            one.reduce(update(np.zeros(4000, np.float32)), number, {})
            rounds.append(own_slice(one, comm))
        return one._words.view(np.int32).copy(), np.stack(rounds)

    results = run_in_threads(SILOS, body)
    own = np.stack([words for words, _ in results])
    assert np.abs(np.corrcoef(own) - np.eye(SILOS)).max() < 0.1
    rounds = np.concatenate([pair for _, pair in results], axis=1)
    assert abs(np.corrcoef(rounds)[0, 1]) < 0.1


def test_the_same_round_from_the_same_values_shows_the_same() -> None:
    def body(comm: Communicator) -> tuple[NDArray[Any], NDArray[Any]]:
        x = update(np.full(300, 0.1 * comm.rank, np.float32))
        both = []
        for _ in range(2):
            one = noisy(ElasticGroup(comm), {"update": 300})
            one.reduce(x, 7, {})
            both.append(own_slice(one, comm))
        return both[0], both[1]

    for first, again in run_in_threads(SILOS, body):
        np.testing.assert_array_equal(first, again)


def test_other_values_than_a_killed_run_showed_are_not_shown_with_the_same_noise() -> None:
    def body(comm: Communicator) -> None:
        gate = Open(other=True)
        one = noisy(ElasticGroup(comm), {"update": 300}, gate=gate)
        with pytest.raises(RetryRound):
            one.reduce(update(np.zeros(300, np.float32)), 1, {})
        assert gate.permitted == []

    run_in_threads(SILOS, body)


def test_what_one_silo_shows_is_what_the_kernels_make_of_its_whole_vector() -> None:
    """Coins are keyed by purpose, round, attempt and position; noise, too, by all that it goes on."""
    x = np.random.default_rng(1).uniform(-1, 1, 1000).astype(np.float32)

    def body(comm: Communicator) -> tuple[NDArray[Any], NDArray[Any]]:
        gate = Open()
        gate.attempts = 2
        one = noisy(ElasticGroup(comm), {"update": 1000}, gate=gate)
        one.reduce(update(x), 5, {})
        keys = NoiseKeys(Secret(bytes([comm.rank + 1] * 32)), bytes(16), comm.rank, run=bytes(16))
        words = np.empty(1000, np.uint32)
        quantize(x, words, scale=1 / STEP, limit=1 << 20, rounding=keys.stream("rounding", 5, 2))
        bound_to = keys.fingerprint("sum", 5, 2, words)
        add_noise(words, discrete_gaussian(64.0), keys.stream("noise", 5, 2, bound_to))
        return one._words.copy(), words

    for shown, expected in run_in_threads(SILOS, body):
        np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("place", ["distributed", "central"])
@pytest.mark.parametrize("rotation", [False, True])
def test_no_two_coordinates_of_several_vectors_share_their_noise(place: str, rotation: bool) -> None:
    """An update and buffers of equal values: had they equal keys, their difference would have no noise."""
    sizes = {"update": 4000, "buffers": 4000}

    def body(comm: Communicator) -> dict[str, NDArray[Any]]:
        one = noisy(ElasticGroup(comm), sizes, place=place, rotation=rotation, variance=400.0)
        one.reduce(Contribution({name: np.zeros(size, np.float32) for name, size in sizes.items()}), 1, {})
        return {name: own_slice(one, comm, name) for name in sizes}

    parts = run_in_threads(SILOS, body)
    noise = {name: np.concatenate([part[name] for part in parts]) * 2 / STEP for name in sizes}
    assert all(
        own.var() == pytest.approx(400.0 * PLACES[place].sources(SILOS), rel=0.1) for own in noise.values()
    )
    assert abs(np.corrcoef(noise["update"], noise["buffers"])[0, 1]) < 0.1
