"""Number formats: what each states of itself, measured over all of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from silofl.aggregation.exact_numbers import ExactNumbers, exact_format
from silofl.aggregation.formats import FORMATS, format_of
from silofl.aggregation.formats.base import NO_RANGES, Ranges, Weight
from silofl.aggregation.formats.exact import Exact
from silofl.aggregation.formats.packed import Packed
from silofl.aggregation.formats.plain_words import PlainWords
from silofl.aggregation.formats.scaled import Scaled
from silofl.aggregation.layout import Block
from silofl.aggregation.shards import Shards
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.wire_format import WireFormat
from silofl.errors import ConfigError
from silofl_kernels import MaskSet, Stream, ring_dtype
from tests.aggregation.harness import KINDS, exact_sum, unit
from tests.campaigns import mostly_long

EVERY_FORMAT = tuple(FORMATS)
MASKS, NONE = MaskSet("aes-128-ctr", [bytes(16)], [1]), MaskSet("aes-128-ctr", [], [])
OFF = MaskSet("aes-128-ctr", [bytes(16)], [-1])


def encode(form: Any, values: NDArray[Any], weight: Weight, ranges: Ranges, **more: Any) -> Any:
    return form.encode(values, weight, ranges, more.get("rounding"))


def words_of(encoded: Any, form: Any, size: int, bits: int, masks: MaskSet = NONE) -> NDArray[Any]:
    out = np.empty(math.ceil(size * form.width), ring_dtype(bits))  # type: ignore[arg-type]
    encoded.begin()
    encoded.write(Block("x", 0, size, 0, len(out), 0), out, masks)
    return out


def decoded(
    form: Any, words: NDArray[Any], size: int, ranges: Ranges, dtype: Any, masks: MaskSet = NONE
) -> Any:
    out = np.empty(size, form.dtype or dtype)
    form.decode(Block("x", 0, size, 0, len(words), 0), words, masks, ranges, 1.0, out)
    return out


def sample(kind: str, size: int, bits: int, dtype: Any) -> NDArray[Any]:
    rng = np.random.default_rng(size)
    if kind == "counts":
        return rng.integers(0, 2, size).astype(dtype)
    if kind == "words":
        return rng.integers(0, 1 << bits, size).astype(ring_dtype(bits))  # type: ignore[arg-type]
    return (rng.standard_normal(size) * np.repeat([1e5, 0.05, 1e-15], [3, 60, size - 63])).astype(dtype)


@pytest.mark.covering(1)
@pytest.mark.parametrize("kind", EVERY_FORMAT)
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_words_are_the_same_wherever_blocks_are_cut_and_masks_come_off(kind: Any, bits: Any) -> None:
    size, ends = 300, np.array([3, 63, 300], np.int64)
    dtype = np.float64 if bits == 32 else np.float32
    spec = VectorSpec("x", size, kind, ends=ends)
    form = format_of(spec).of(spec, bits, 3, stochastic=False)
    values = sample(kind, size, bits, dtype)
    ranges = np.array([2.0**19, 1.0, 2.0**-45]) if form.ranges else NO_RANGES
    assert form.ranges == (3 if kind in ("scaled", "packed") else 0)
    own = encode(form, values, Weight(1 / 3, 1 / 3), ranges)
    plain = words_of(own, form, size, bits)
    masked = words_of(own, form, size, bits, MASKS)
    assert (plain != masked).mean() > 0.9
    total = len(plain)
    rng = np.random.default_rng(0)
    for _ in range(20):
        start, stop = sorted(rng.choice(total + 1, 2, replace=False))
        out = np.empty(stop - start, plain.dtype)
        first, last = int(start // form.width), min(int(-(-stop // form.width)), size)
        own.write(Block("x", first, last, start, stop, start), out, MASKS)
        np.testing.assert_array_equal(out, masked[start:stop])
    np.testing.assert_array_equal(
        decoded(form, masked, size, ranges, dtype, OFF), decoded(form, plain, size, ranges, dtype)
    )


@pytest.mark.parametrize(("dtype", "bits"), KINDS)
def test_scaled_is_within_half_a_step_of_each_tensors_own_range(bits: Any, dtype: Any) -> None:
    size, ends = 3000, np.array([3, 63, 63, 3000], np.int64)
    form = Scaled(VectorSpec("x", size, ends=ends), bits, 3, stochastic=False)
    values = sample("scaled", size, bits, dtype)
    spans = [np.abs(part).max(initial=0) for part in np.split(values.astype(np.float64), ends[:-1])]
    ranges = np.array([2.0 ** math.ceil(math.log2(span)) if span else 1.0 for span in spans])
    own = encode(form, values, Weight(1.0, 1.0), ranges)
    back = decoded(form, words_of(own, form, size, bits), size, ranges, np.float64)
    steps = ranges / unit(bits, 3)
    np.testing.assert_allclose(form.steps(ranges), steps, rtol=1e-12)
    lengths = np.diff([0, *ends])
    slack = np.abs(values) * (2.0**-22 if bits <= 16 else 2.0**-50)
    assert (np.abs(back - values) <= np.repeat(steps, lengths) / 2 + slack).all()
    assert own.clipped == own.nonfinite == 0
    true = [np.linalg.norm(p) for p in np.split(back - values, ends[:-1])]
    size_of = [np.linalg.norm(p.astype(np.float64)) for p in np.split(values, ends[:-1])]
    told = own.errors()
    for error, whole, found in zip(true, size_of, told, strict=True):
        assert found == pytest.approx(error / whole if whole else 0.0, rel=1e-2, abs=1e-6)


@pytest.mark.covering(1)
@pytest.mark.parametrize(("dtype", "bits"), KINDS)
@pytest.mark.parametrize("silos", [1, 3, 100])
def test_exact_sums_lose_nothing(silos: int, bits: Any, dtype: Any) -> None:
    form, size = Exact(bits, silos), 7
    rng = np.random.default_rng(silos)
    values = [
        np.array([1e5, 0.05, 1e-27, -3.0, 2.0**127, 0.0, 2.0**-96], dtype) * dtype(rng.choice([-1, 1]))
        for _ in range(silos)
    ]
    words = [words_of(encode(form, v, Weight(1.0, 1.0), NO_RANGES), form, size, bits) for v in values]
    total = np.add.reduce(words, axis=0, dtype=words[0].dtype)
    found = decoded(form, total, size, NO_RANGES, np.float64)
    assert found.tolist() == [float(exact_sum([float(v[k]) for v in values])) for k in range(size)]
    if silos == 1:
        mixed = np.array([1e5, 0.05, 1e-30], np.float32)
        back = decoded(form, words_of(encode(form, mixed, Weight(1.0, 1.0), NO_RANGES), form, 3, bits), 3,
                       NO_RANGES, np.float64)  # fmt: skip
        assert (np.abs(back - mixed) <= 2.0**-97).all()


@pytest.mark.parametrize("value", [2.0**128, 1e300, np.inf, np.nan])
def test_exact_has_no_words_for_huge_values_and_says_so(value: float) -> None:
    own = encode(Exact(16, 3), np.array([1.0, value, -value]), Weight(1.0, 1.0), NO_RANGES)
    assert own.nonfinite == 2


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("bits", "stochastic"),
    mostly_long([(8, False), (16, False), (32, False), (16, True), (8, True), (32, True)], 0, 1, 2, 3),
)
@settings(deadline=None, max_examples=50)
@given(counts=st.lists(st.integers(1, 10**7), min_size=1, max_size=60), beyond=st.sampled_from([1.0, 1000.0]))
def test_no_sum_wraps_whatever_the_weights_and_values(
    bits: Any, counts: list[int], stochastic: bool, beyond: float
) -> None:
    """All silos at the end of the range, or far beyond a configured one."""
    silos, total, dtype = len(counts), 0, np.float64 if bits == 32 else np.float32
    form = Scaled(VectorSpec("x", 1), bits, silos, stochastic=stochastic)
    rounding = Stream("aes-128-ctr", bytes(16)) if stochastic else None
    for count in counts:
        share = count / sum(counts)
        own = form.encode(np.array([beyond], dtype), Weight(share, share), np.ones(1), rounding)
        word = words_of(own, form, 1, bits)
        total += int(word.view(f"i{word.itemsize}")[0])
    assert 0 <= total <= 2 ** (bits - 1) - 1


def test_many_silos_of_little_weight_beyond_a_range_do_not_wrap_a_sum() -> None:
    """Each of 99 rounds to zero within the range, so none may bring a whole unit from beyond it."""
    form = Scaled(VectorSpec("x", 1), 8, 100, stochastic=False)
    shares = [0.9, *([0.1 / 99] * 99)]
    owns = [form.encode(np.array([1000.0], np.float32), Weight(p, p), np.ones(1), None) for p in shares]
    words = [int(words_of(own, form, 1, 8).view(np.int8)[0]) for own in owns]
    assert words[0] > 0
    assert sum(words) <= 127
    assert owns[1].errors().tolist() == [1.0]


def test_stochastic_rounding_is_unbiased_and_a_function_of_seed_silo_round_and_coordinate() -> None:
    size, bits = 100_000, 16
    spec = VectorSpec("x", size)
    form = Scaled(spec, bits, 3, stochastic=True)
    step = form.steps(np.ones(1))[0]
    values = np.full(size, 100.25 * step, np.float32)

    def wire(seed: int) -> WireFormat:
        whole = AggregationSpec((spec,), np.dtype(np.float32), 1, seed, bytes(32), 3)
        return WireFormat(whole, bits, Shards(0, (0, 1, 2)), stochastic=True)  # type: ignore[arg-type]

    def drawn(seed: int, silo: int, number: int, name: str = "x") -> NDArray[Any]:
        rounding = wire(seed).rounding("aes-128-ctr", silo, number)(name)
        return words_of(form.encode(values, Weight(1.0, 1.0), np.ones(1), rounding), form, size, bits)

    base = drawn(1, 2, 3)
    assert set(base.tolist()) == {100, 101}
    assert abs((base == 101).mean() - 0.25) < 6.2 * math.sqrt(0.25 * 0.75 / size)  # 1e-9
    np.testing.assert_array_equal(base, drawn(1, 2, 3))
    for other in (drawn(2, 2, 3), drawn(1, 1, 3), drawn(1, 2, 4), drawn(1, 2, 3, "y")):
        assert abs((base != other).mean() - 2 * 0.25 * 0.75) < 0.02


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_words_are_added_up_as_they_are(bits: Any) -> None:
    form = PlainWords(bits)
    values = [sample("words", 100, bits, None) + k for k in range(3)]
    words = [words_of(encode(form, v, Weight(0.1, 0.1), NO_RANGES), form, 100, bits) for v in values]
    total = np.add.reduce(words, axis=0, dtype=words[0].dtype)
    np.testing.assert_array_equal(
        decoded(form, total, 100, NO_RANGES, None), np.add.reduce(values, axis=0, dtype=total.dtype)
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: Scaled.of(VectorSpec("x", 1), 8, 300, stochastic=False),
            "300 silos do not fit an 8-bit",
        ),
        (
            lambda: exact_format(8, 128),
            "128 silos do not fit a ring of 8 bits.* 127 at most; use secure.bits = 16",
        ),
        (lambda: exact_format(16, 65536), "32767 at most; use secure.bits = 32"),
        (lambda: ExactNumbers(8, 1).encoder(np.ones(1))(200), "200 silos do not fit"),
    ],
)
def test_a_ring_too_small_for_the_silos_is_refused_beforehand(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_the_most_silos_that_fit_are_added_up() -> None:
    for bits, silos in ((8, 127), (16, 32767), (32, 65536)):
        exact = exact_format(bits, silos)  # type: ignore[arg-type]
        words = np.empty(exact.words, ring_dtype(bits))  # type: ignore[arg-type]
        exact.encode(np.array([-np.pi]), words)
        out = np.empty(1)
        exact.decode((words * words.dtype.type(silos)).astype(words.dtype), out)
        assert out[0] == float(exact_sum([-math.pi]) * silos)


@given(
    values=st.lists(
        st.lists(st.floats(-(2.0**127), 2.0**127), min_size=3, max_size=3), min_size=1, max_size=9
    ),
    bits=st.sampled_from([8, 16, 32]),
)
@settings(deadline=None)
def test_numbers_add_up_exactly(values: list[list[float]], bits: Any) -> None:
    numbers, silos = ExactNumbers(bits, 3), len(values)
    words = [numbers.encoder(np.array(v))(silos) for v in values]
    total = numbers.decode(np.add.reduce(words, axis=0, dtype=words[0].dtype), silos)
    assert total.tolist() == [float(exact_sum([v[i] for v in values])) for i in range(3)]


def test_a_number_that_is_not_finite_spoils_its_own_sum_alone() -> None:
    numbers = ExactNumbers(16, 3)
    words = [numbers.encoder(np.array(v))(2) for v in ([1.0, np.nan, 2.0**128], [2.0, 1.0, 1.0])]
    total = numbers.decode(np.add.reduce(words, axis=0, dtype=np.uint16), 2)
    assert total[0] == 3.0
    assert np.isnan(total[1:]).all()


@settings(deadline=None, max_examples=60)
@given(
    bits=st.sampled_from([4, 8]),
    sizes=st.lists(st.integers(1, 1000), min_size=2, max_size=6),
    seed=st.integers(0, 100),
)
def test_sums_of_few_bits_to_nearest_fit_although_small_silos_have_a_level(
    bits: int, sizes: list[int], seed: int
) -> None:
    """Of extreme values, whose sum is exact in integers; small silos send more than zeros, too."""
    total, small = sum(sizes), 0
    while True:
        form = Packed(VectorSpec("x", 64, "packed", bits=bits, keeps_error=True, small=small), 16, len(sizes))
        found = sum(form.levels(one / total) < 0.5 for one in sizes)
        if found <= small:
            break
        small = found
    limit = (1 << bits - 1) - 1
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], 64)
    signs[:8] = 1.0
    ranges, words, sums = np.ones(1), np.zeros(math.ceil(64 * form.width), np.uint16), np.zeros(64)
    for one in sizes:
        weight = Weight(one / total, one / total)
        values = 1000 * signs.astype(np.float32)
        encoded = encode(form, values, weight, ranges)
        words += words_of(encoded, form, 64, 16)
        sent = (values - encoded.residual) * form.levels(one / total)  # in levels
        assert np.abs(sent).min() > 0.9
        sums += np.rint(sent)
    assert np.abs(sums).max() <= limit
    mean = decoded(form, words, 64, ranges, np.float32)
    np.testing.assert_allclose(mean * form.levels(1.0), sums, rtol=1e-5)
