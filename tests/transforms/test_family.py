"""Every transform of `silofl.transforms` has the properties that it states, measured."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl import transforms
from silofl.crypto.noise_keys import NoiseKeys
from silofl.crypto.secret import Secret
from silofl.privacy.grid import Grid
from silofl.transforms.base import Slice, Transform
from silofl.transforms.correlated import CorrelatedNoise, Drawn, NoiseProcess
from silofl.transforms.integer_grid import IntegerGrid
from silofl.transforms.noise import ServerNoise, SiloNoise
from silofl.transforms.rotation import Rotation
from silofl_kernels import Stream, discrete_gaussian

SILOS, SIZE, ROUNDS, VARIANCE = 3, 500, 400, 64.0
GRID, TABLE = Grid(step=0.25, limit=1 << 20, sensitivity=1.0, share=VARIANCE), discrete_gaussian(VARIANCE)
RING, BOUND = np.dtype(np.uint32), b"fingerprint"


def keys_of(silo: int) -> NoiseKeys:
    return NoiseKeys(Secret(bytes([silo + 1] * 32)), bytes(16), silo, run=bytes(16))


@dataclass(frozen=True)
class OpenProcess:
    """Correlated noise whose process begins with whatever is asked for."""

    inner: CorrelatedNoise

    def encode(self, values: Any, place: Slice, out: Any) -> Any:
        drawn = Drawn(place.round_number, place.attempt, place.fingerprint)
        self.inner.process.open(drawn, (0,), goes_on=False)
        return self.inner.encode(values, place, out)

    def decode(self, total: Any, place: Slice) -> Any:
        return self.inner.decode(total, place)


def opened(silo: int) -> Any:
    return OpenProcess(CorrelatedNoise(NoiseProcess((49, 37), SIZE + 7), TABLE, keys_of(silo)))


@dataclass(frozen=True)
class Example:
    """How a kind of transform is made for a silo, and the type of what it is given."""

    make: Callable[[int], Transform]
    words: bool
    """Whether it takes ring integers."""


EXAMPLES: dict[type, Example] = {
    Rotation: Example(lambda silo: Rotation(Stream("aes-128-ctr", bytes(16))), words=False),
    IntegerGrid: Example(lambda silo: IntegerGrid(GRID, keys_of(silo)), words=False),
    SiloNoise: Example(lambda silo: SiloNoise(TABLE, keys_of(silo)), words=True),
    CorrelatedNoise: Example(opened, words=True),
    ServerNoise: Example(lambda silo: ServerNoise(TABLE, keys_of(silo)), words=True),
}


def family() -> list[type]:
    """Every class of the folder that encodes and decodes."""
    modules = [
        import_module(f"silofl.transforms.{m.name}") for m in pkgutil.iter_modules(transforms.__path__)
    ]
    found = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    mine = {kind for kind in found if hasattr(kind, "encode") and hasattr(kind, "decode")} - {Transform}
    return sorted(mine, key=lambda kind: kind.__name__)


FAMILY = family()


def values_of(kind: type, silo: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(silo)
    if EXAMPLES[kind].words:
        return rng.integers(0, 2**32, SIZE, dtype=np.uint32)
    return rng.normal(size=SIZE).astype(np.float32)


def encoded(one: Transform, values: NDArray[Any], place: Slice) -> NDArray[Any]:
    return np.array(one.encode(values, place, np.zeros(values.size, RING)))


def add(rows: list[NDArray[Any]]) -> NDArray[Any]:
    """In the ring, or in float64."""
    return np.add.reduce(rows, axis=0, dtype=rows[0].dtype if rows[0].dtype == RING else np.float64)


def difference(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Signed where both are ring integers."""
    if left.dtype == right.dtype == RING:
        return (left - right).view(np.int32).astype(np.float64)
    return np.asarray(left, np.float64) - right


def is_linear(kind: type) -> bool:
    """Whether the sum of every silo's encoded values is the encoding of their sum."""
    place, rows = Slice(0, 1, 0, BOUND), [values_of(kind, silo) for silo in range(SILOS)]
    made = [EXAMPLES[kind].make(silo) for silo in range(SILOS)]
    apart = add([encoded(one, row, place) for one, row in zip(made, rows, strict=True)])
    whole = encoded(made[0], add(rows), place)
    return bool(np.abs(difference(apart, whole)).max() < 1e-3)


def is_unbiased(kind: type) -> bool:
    """Whether the mean of what is decoded, over many rounds, is the sum: to 5 of its standard errors."""
    rows = [values_of(kind, silo) for silo in range(SILOS)]
    made, errors = [EXAMPLES[kind].make(silo) for silo in range(SILOS)], []
    for number in range(1, ROUNDS + 1):
        place = Slice(0, number, 0, BOUND)
        total = add([encoded(one, row, place) for one, row in zip(made, rows, strict=True)])
        errors.append(difference(made[0].decode(total, place), add(rows)))
    of = np.stack(errors)
    bound = 5 * of.std(axis=0) / np.sqrt(ROUNDS) + 1e-3 * max(1.0, float(of.std()) / 10)
    return bool(np.all(np.abs(of.mean(axis=0)) < bound))


@pytest.mark.covering(0)
@pytest.mark.parametrize("kind", FAMILY)
def test_a_transform_is_linear_and_unbiased_where_it_says_so(kind: Any) -> None:
    assert kind in EXAMPLES, "give it an example"
    assert (is_linear(kind), is_unbiased(kind)) == (kind.linear, kind.unbiased)


@dataclass(frozen=True)
class Floor:
    """Rounds down, which is neither."""

    def encode(self, values: Any, place: Slice, out: Any) -> Any:
        out[:] = np.floor(values / 0.25).astype(np.int64).astype(np.uint32)
        return out

    def decode(self, total: Any, place: Slice) -> Any:
        return total.view(np.int32) * 0.25


def test_what_is_measured_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = Floor()
    monkeypatch.setitem(EXAMPLES, Floor, Example(lambda silo: made, words=False))
    assert (is_linear(Floor), is_unbiased(Floor)) == (False, False)


@pytest.mark.parametrize("kind", FAMILY)
def test_a_slice_that_is_made_alone_is_that_part_of_the_whole(kind: Any) -> None:
    """Rotation mixes within a slice, and a server's noise hangs on all of it: slices in another order."""
    one, values = EXAMPLES[kind].make(1), values_of(kind)
    pieces = [(0, 100), (100, 163), (163, SIZE)]
    mixes = kind in (Rotation, ServerNoise)

    def encode(first: int, last: int) -> NDArray[Any]:
        return encoded(one, values[first:last], Slice(first, 4, 1, BOUND))

    def decode(first: int, last: int) -> NDArray[Any]:
        total = values if EXAMPLES[kind].words or mixes else whole
        return np.array(one.decode(total[first:last], Slice(first, 4, 1)))

    whole = encode(0, SIZE)
    for make in (encode, decode):
        expected = np.concatenate([make(*piece) for piece in pieces]) if mixes else make(0, SIZE)
        parts = {piece: make(*piece) for piece in reversed(pieces)}
        np.testing.assert_array_equal(np.concatenate([parts[piece] for piece in pieces]), expected)


@pytest.mark.parametrize("kind", FAMILY)
def test_another_round_attempt_position_or_silo_has_other_randomness(kind: Any) -> None:
    values, make = np.full(SIZE, 0.1, np.float32), EXAMPLES[kind].make
    if EXAMPLES[kind].words:
        values = np.zeros(SIZE, RING)

    def both(silo: int, place: Slice) -> NDArray[Any]:
        words = encoded(make(silo), values, place)
        return words if kind is not ServerNoise else np.array(make(silo).decode(words, place))

    first = both(0, Slice(0, 1, 0, BOUND))
    np.testing.assert_array_equal(first, both(0, Slice(0, 1, 0, BOUND)))
    places = (0, Slice(0, 2, 0, BOUND)), (0, Slice(0, 1, 1, BOUND)), (0, Slice(7, 1, 0, BOUND))
    others = [both(*place) for place in (*places, (1, Slice(0, 1, 0, BOUND)))]
    for other in others:
        assert np.array_equal(first, other) == (
            kind is Rotation
        )  # the same for all, or sums would not turn back


@pytest.mark.parametrize("kind", FAMILY)
def test_what_a_transform_is_given_stays_as_it_is(kind: Any) -> None:
    one, values, place = EXAMPLES[kind].make(0), values_of(kind), Slice(0, 1, 0, BOUND)
    before = values.copy()
    words = encoded(one, values, place)
    np.testing.assert_array_equal(values, before)
    kept = words.copy()
    one.decode(words, place)
    if words.dtype == RING:
        np.testing.assert_array_equal(words, kept)


@pytest.mark.parametrize("kind", [kind for kind in FAMILY if EXAMPLES[kind].words])
def test_a_later_stage_works_where_the_words_lie_and_elsewhere(kind: Any) -> None:
    one, values, place = EXAMPLES[kind].make(0), values_of(kind), Slice(3, 1, 0, BOUND)
    out = values.copy()
    np.testing.assert_array_equal(one.encode(out, place, out), encoded(one, values, place))


def test_noise_is_never_drawn_for_just_any_words() -> None:
    """Of a silo it hangs on the fingerprint of its whole contribution, of a server on the slice itself."""
    words, silo, server = np.zeros(SIZE, RING), SiloNoise(TABLE, keys_of(0)), ServerNoise(TABLE, keys_of(0))
    with pytest.raises(ValueError, match="bound to what it goes on"):
        silo.encode(words, Slice(0, 1), words)
    first, other = (encoded(silo, words, Slice(0, 1, 0, bound)) for bound in (b"one", b"other"))
    changed = words.copy()
    changed[-1] += 1
    apart = server.decode(words, Slice(0, 1)), server.decode(changed, Slice(0, 1)) - changed
    for one, two in ((first, other), apart):
        assert np.mean(one == two) < 0.2
