"""Sums in wide fixed point are the exact sums of fractions, rounded once."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl_kernels import ExactFormat, ring_limit

from . import naive

FORMATS = [
    ExactFormat(bits, silos)
    for bits, silos in ((8, 1), (8, 2), (8, 127), (16, 3), (16, 32767), (32, 1), (32, 12), (32, 2**31 - 1))
]
each_format = pytest.mark.parametrize("form", FORMATS, ids=str)
SPECIAL = [
    0.0, -0.0, 1.0, -1.0, 1 / 3, 5e-324, 2.0**-96, 2.0**-97, 3 * 2.0**-97, -5 * 2.0**-97, 2.0**-98,
    2.0**-97 + 2.0**-149, 2.0**-149, float(np.finfo(np.float32).max), -float(np.nextafter(2.0**128, 0)),
    2.0**-44 + 2.0**-96,
]  # fmt: skip


def encode(form: ExactFormat, x: np.ndarray, weight: float = 1.0) -> tuple[np.ndarray, int]:
    out = np.full(x.size * form.words + 2, 7, f"uint{form.bits}")
    nonfinite = form.encode(x, out[1:-1], weight=weight)
    assert out[0] == out[-1] == 7
    return out[1:-1], nonfinite


def decode(form: ExactFormat, sums: np.ndarray) -> np.ndarray:
    out = np.full(sums.size // form.words, 7.0)
    form.decode(sums, out)
    return out


def unit(value: float) -> Fraction:
    """A value as encoding leaves it: a multiple of 2^-96."""
    return Fraction(round(Fraction(value) * 2**96), 2**96)


@each_format
def test_digits(form: ExactFormat) -> None:
    largest = (1 << form.digit_bits) - 1
    assert form.silos * largest <= ring_limit(form.bits) < form.silos * (2 * largest + 1)
    assert form.words * form.digit_bits >= 224 > (form.words - 1) * form.digit_bits


@each_format
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_words_are_the_naive_ones(form: ExactFormat, dtype: str) -> None:
    rng = np.random.default_rng(0)
    with np.errstate(over="ignore"):
        x = np.concatenate([SPECIAL, rng.standard_normal(50) * 2.0 ** rng.integers(-120, 120, 50)]).astype(
            dtype
        )
    x = x[np.isfinite(x)]
    for weight in (1.0, -0.3):
        words, nonfinite = encode(form, x, weight)
        products = [float(v) * weight for v in x]
        want = [naive.exact_digits(v, form.digit_bits, form.words, form.bits) for v in products]
        assert words.reshape(-1, form.words).tolist() == want
        assert nonfinite == 0
        assert decode(form, words).tolist() == [float(unit(v)) for v in products]


number = st.floats(-(2.0**127), 2.0**127) | st.floats(-1.0, 1.0) | st.sampled_from(SPECIAL)


@pytest.mark.covering(0)
@each_format
def test_sums_over_silos_are_exact(form: ExactFormat) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(number, min_size=1, max_size=min(form.silos, 6)), st.integers(0, 2**32), st.booleans())
    def check(values: list[float], seed: int, cancel: bool) -> None:
        if cancel and 2 * len(values) <= form.silos:  # all that is left is far below what was added
            values = [*values, *(-v for v in values[1:]), -float(np.nextafter(values[0], 0))]
        masks = np.random.default_rng(seed).integers(0, 1 << form.bits, form.words).astype(f"uint{form.bits}")
        total = masks.copy()  # masked, words and their sums wrap around
        for value in values:
            total += encode(form, np.array([value]))[0]
        total -= masks
        want = sum((unit(value) for value in values), Fraction())
        assert naive.exact_sum(total.tolist(), form.digit_bits, form.bits) == want
        assert decode(form, total).tolist() == [float(want)]

    check()


@pytest.mark.parametrize("form", [form for form in FORMATS if form.silos > 3], ids=str)
@pytest.mark.parametrize("far", [0.0, 2.0**-96, 2.0**-20, -(2.0**-96), 2.0**33, 2.0**34])
def test_ties_are_settled_by_what_lies_far_below(form: ExactFormat, far: float) -> None:
    for sign in (1, -1):
        for even in (0, 1):
            values = [sign * v for v in (2.0**100, even * 2.0**48, 2.0**47, far)]
            want = sum(map(Fraction, values), Fraction())
            total = np.zeros(form.words, f"uint{form.bits}")
            for value in values:
                total += encode(form, np.array([value]))[0]
            assert decode(form, total).tolist() == [float(want)]


@each_format
def test_the_largest_sum_has_room(form: ExactFormat) -> None:
    for sign in (1, -1):
        largest = (sign * form.silos * ((1 << form.digit_bits) - 1)) % (1 << form.bits)
        sums = np.full(form.words, largest, f"uint{form.bits}")
        want = naive.exact_sum(sums.tolist(), form.digit_bits, form.bits)
        assert decode(form, sums).tolist() == [float(want)]


def test_what_has_no_digits_is_counted() -> None:
    form = ExactFormat(16, 3)
    words, nonfinite = encode(form, np.array([np.nan, 1.0, np.inf, -np.inf, 2.0**128, -1e300]))
    assert nonfinite == 5
    assert decode(form, words).tolist() == [0, 1, 0, 0, 0, 0]
    assert encode(form, np.array([2.0**127]), 2.0)[1] == 1
    assert encode(form, np.zeros(0))[1] == 0


@pytest.mark.parametrize(("bits", "silos"), [(8, 128), (16, 32768), (16, 0), (8, -1), (12, 1)])
def test_sums_that_no_digit_allows(bits: int, silos: int) -> None:
    with pytest.raises(ValueError):
        ExactFormat(bits, silos)


def test_bad_arguments_write_nothing() -> None:
    form = ExactFormat(16, 3)
    x, words = np.ones(2), np.full(2 * form.words, 3, np.uint16)
    frozen = words.copy()
    frozen.flags.writeable = False
    for bad in (words[:-1], words.astype(np.uint8), words.astype(np.int16), frozen, words.reshape(2, -1)):
        with pytest.raises((ValueError, TypeError)):
            form.encode(x, bad)
    for bad in (words[:-1], words.astype(np.uint32)):
        with pytest.raises((ValueError, TypeError)):
            form.decode(bad, x)
    with pytest.raises(TypeError, match="float64"):
        form.decode(words, x.astype(np.float32))
    assert (words == 3).all()
    assert (x == 1).all()
