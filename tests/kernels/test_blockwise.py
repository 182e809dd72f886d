"""Codes with one step for each block are the naive arithmetic, with what they lose in the residual."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl_kernels import (
    Stream,
    code_dtype,
    code_limit,
    dequantize_blocks,
    dequantize_segments,
    keystream,
    quantize_blocks,
    quantize_segments,
)

STREAM = Stream("aes-128-ctr", bytes(range(16)))
ROUNDINGS = pytest.mark.parametrize("rounding", [None, STREAM], ids=["nearest", "stochastic"])
EVERY_BITS = [1, 2, 3, 4, 5, 6, 7, 8]
one = np.float32(1)


def draws_of(stream: Stream, first: int, size: int) -> np.ndarray:
    """Chances in [0, 1), float32, of coordinates from `first` on: 24 of their 32 bits."""
    words = np.zeros(4 * size, np.uint8)
    keystream(stream, words, position=4 * first)
    return (words.view("<u4") >> 8).astype(np.float32) * np.float32(2.0**-24)


def naive_step(values: np.ndarray, bits: int, *, stochastic: bool) -> np.float32:
    """Step of a block."""
    largest = np.abs(values).max(initial=0)
    if not np.isfinite(values).all():
        return np.float32(np.nan)
    if largest < 2.0**-100:
        return np.float32(0)
    if bits == 1 and not stochastic:
        return np.float32(np.abs(values).astype(float).sum() / values.size)
    return np.float32(largest) / np.float32(code_limit(bits))


def naive_codes(values: np.ndarray, step: np.float32, bits: int, chances: np.ndarray | None) -> np.ndarray:
    """Codes of values of one step, one by one."""
    codes = []
    for i, value in enumerate(values):
        product = value * (one / step if step > 0 else np.float32(0))
        if bits == 1:
            below = value < 0 if chances is None else not 2 * chances[i] - one < product
            codes.append(-1 if below else 1)
        elif chances is None:
            codes.append(np.rint(product))
        else:
            codes.append(np.floor(product) + (chances[i] < product - np.floor(product)))
    return np.clip(codes, -code_limit(bits), code_limit(bits)).astype(int)


def vector(size: int, seed: int = 0) -> np.ndarray:
    """Values of many magnitudes, some 0."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(size) * np.exp(rng.normal(0, 3, size))
    return (x * (rng.random(size) < 0.9)).astype(np.float32)


def encode(
    x: np.ndarray, bits: int, block: int, residual: np.ndarray | None = None, rounding: Stream | None = None,
    first: int = 0,
) -> tuple[np.ndarray, np.ndarray, int]:  # fmt: skip
    codes, steps = np.full(x.size, 77, code_dtype(bits)), np.full(-(-x.size // block), 7, np.float32)
    missed = quantize_blocks(
        x, codes, steps, bits=bits, block=block, residual=residual, rounding=rounding, first=first
    )
    return codes, steps, missed


def decode(codes: np.ndarray, steps: np.ndarray, block: int) -> np.ndarray:
    out = np.zeros(codes.size, np.float32)
    dequantize_blocks(codes, steps, out, block=block)
    return out


@ROUNDINGS
@pytest.mark.parametrize("bits", [*EVERY_BITS, pytest.param(16, marks=pytest.mark.long)])
def test_blocks_are_the_naive_ones(bits: int, rounding: Stream | None) -> None:
    if bits == 16 and rounding is not None:
        bits = 8  # one kernel fewer to compile: the width of a code changes nothing else
    for size, block in ((0, 8), (1, 1), (1, 64), (31, 5), (64, 32), (100, 33), (257, 256), (5000, 4100)):
        x, first = vector(size, size + bits), 1000 + size
        kept = vector(size, size + 50)
        residual, before = kept.copy(), x.copy()
        codes, steps, missed = encode(x, bits, block, residual, rounding, first)
        plain, plain_steps, _ = encode(x + kept, bits, block, None, rounding, first)
        assert missed == 0
        assert x.tobytes() == before.tobytes()
        assert (plain.tobytes(), plain_steps.tobytes()) == (codes.tobytes(), steps.tobytes())
        chances = None if rounding is None else draws_of(rounding, first, size)
        for number, start in enumerate(range(0, size, block)):
            here = slice(start, start + block)
            total = x[here] + kept[here]
            assert steps[number] == pytest.approx(
                naive_step(total, bits, stochastic=rounding is not None), rel=1e-7
            )
            want = naive_codes(total, steps[number], bits, None if chances is None else chances[here])
            assert codes[here].tolist() == want.tolist()
        decoded = decode(codes, steps, block)
        assert decoded.tolist() == [
            c * s for c, s in zip(codes.astype(np.float32), np.repeat(steps, block), strict=False)
        ]
        assert residual.tolist() == ((x + kept) - decoded).tolist()


@ROUNDINGS
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_agreed_steps_clip_and_keep_the_rest(bits: int, rounding: Stream | None) -> None:
    x, ends = vector(5000, 3), np.array([0, 10, 10, 1000, 7000])
    steps, first = np.array([1, 0.5, 3, 0, 0.01], np.float32), 7
    codes, residual, kept = np.zeros(x.size, np.int8), vector(x.size, 4), vector(x.size, 4)
    arguments = {"bits": bits, "ends": ends, "rounding": rounding}
    assert quantize_segments(x, codes, steps, residual=residual, first=first, **arguments) == 0
    own = steps[np.searchsorted(ends, first + np.arange(x.size), "right")]
    chances = None if rounding is None else draws_of(rounding, first, x.size)
    for step in {float(s) for s in own}:
        here = own == np.float32(step)
        want = naive_codes(
            (x + kept)[here], np.float32(step), bits, None if chances is None else chances[here]
        )
        assert codes[here].tolist() == want.tolist()
    decoded = np.zeros(x.size, np.float32)
    dequantize_segments(codes, steps, decoded, ends=ends, first=first)
    assert decoded.tolist() == (codes.astype(np.float32) * own).tolist()
    assert residual.tolist() == ((x + kept) - decoded).tolist()
    alone = np.zeros(2222, np.int8)
    quantize_segments(x[600:2822], alone, steps, residual=kept[600:2822], first=first + 600, **arguments)
    assert alone.tobytes() == codes[600:2822].tobytes()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 6000), st.integers(1, 5000), st.integers(1, 8), st.integers(0, 9), st.booleans())
def test_error_feedback_loses_nothing(size: int, block: int, bits: int, seed: int, noisy: bool) -> None:
    x, residual = vector(size, seed), vector(size, seed + 1)
    total = x + residual
    rounding = STREAM if noisy else None
    codes, steps, _ = encode(x, bits, block, residual, rounding, seed)
    decoded, step = decode(codes, steps, block), np.repeat(steps, block)[:size]
    assert np.abs(codes).max(initial=0) <= code_limit(bits)
    if bits > 1:
        assert (np.abs(residual) <= step * (1 if noisy else 0.5) * (1 + 1e-4)).all()
    if not noisy and bits > 1:
        assert (decoded.astype(float) + residual == total).all()  # exact: nothing is rounded
    middle = size // 2 // block * block
    for part, at in ((slice(0, middle), 0), (slice(middle, size), middle)):
        alone = encode(total[part], bits, block, None, rounding, seed + at)
        assert alone[0].tobytes() == codes[part].tobytes()


def test_stochastic_codes_are_unbiased() -> None:
    x = np.tile(np.array([1, 0.3, -0.77, 0.001], np.float32), 50_000)
    for bits in (1, 2, 5):
        codes, steps, _ = encode(x, bits, 4096, None, STREAM)
        means = decode(codes, steps, 4096).reshape(-1, 4).mean(0)
        assert np.abs(means - x[:4]).max() < 5 * steps[0] / np.sqrt(50_000)
        assert np.abs(means - x[:4]).max() > 0


def test_what_is_not_finite_spoils_its_block_alone() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for at in (3, 70, 99):  # in whole registers, and in what is left of a block
            x, residual = vector(130), vector(130, 1)
            good, kept = encode(x, 8, 100, residual.copy())[0], residual.copy()
            (x if at != 70 else residual)[at] = kept[at] = bad if at == 70 else kept[at]
            x[at] = bad
            codes, steps, missed = encode(x, 8, 100, residual)
            assert (missed, codes[:100].any()) == (1, False)
            assert np.isnan(steps[0])
            assert np.isfinite(steps[1])
            assert np.isnan(decode(codes, steps, 100)[:100]).all()
            assert residual[:100].tobytes() == kept[:100].tobytes()
            assert codes[100:].tobytes() == good[100:].tobytes()


def test_agreed_steps_leave_out_what_is_not_finite() -> None:
    for at in (3, 99, 4096):
        x, residual, steps, ends = (
            vector(4100),
            vector(4100, 1),
            np.array([0.5], np.float32),
            np.array([4100]),
        )
        want, kept = np.zeros(4100, np.int8), residual.copy()
        quantize_segments(x, want, steps, bits=6, ends=ends, residual=(after := residual.copy()))
        x[at], want[at], after[at] = np.nan, 0, kept[at]
        codes = np.ones(4100, np.int8)
        assert quantize_segments(x, codes, steps, bits=6, ends=ends, residual=residual) == 1
        assert codes.tobytes() == want.tobytes()
        assert residual.tobytes() == after.tobytes()


def test_extreme_magnitudes() -> None:
    for scale, step in ((1e-38, 0), (1e-31, 0), (1e-29, 1), (3e38, 1)):
        x = np.array([1, -0.3, 0.25, 0], np.float32) * np.float32(scale)
        codes, steps, missed = encode(x, 8, 4, residual := np.zeros(4, np.float32))
        assert missed == 0
        assert (steps[0] > 0) == step
        assert codes.tolist() == ([127, -38, 32, 0] if step else [0] * 4)
        assert residual.tolist() == (x - decode(codes, steps, 4)).tolist()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"x": np.ones(8)}, "x is float32, not float64"),
        ({"x": np.ones(16, np.float32)[::2]}, "x is one-dimensional, contiguous and aligned"),
        ({"x": np.ones(7, np.float32)}, "two vectors of 7 and 8 elements"),
        ({"codes": np.zeros(8, np.int16)}, "codes of 4 bits are int8, not int16"),
        ({"steps": np.zeros(3, np.float32)}, "3 steps for 2 blocks"),
        ({"bits": 0}, "a code has 1 to 16 bits, not 0"),
        ({"bits": 17}, "a code has 1 to 16 bits, not 17"),
        ({"block": 0}, "a block has at least one value, not 0"),
        ({"residual": np.zeros(8)}, "residual is float32, not float64"),
        ({"residual": np.zeros(9, np.float32)}, "two vectors of 8 and 9 elements"),
        ({"rounding": STREAM, "first": -1}, "are not all within"),
    ],
)
def test_bad_arguments_write_nothing(changed: dict, sentence: str) -> None:
    good = {"x": np.ones(8, np.float32), "codes": np.full(8, 3, np.int8), "steps": np.full(2, 7, np.float32)}
    arguments = {**good, "bits": 4, "block": 4, **changed}
    with pytest.raises((ValueError, TypeError), match=sentence):
        quantize_blocks(**arguments)
    assert (good["codes"] == 3).all()
    assert (good["steps"] == 7).all()


def test_bad_steps_and_segments() -> None:
    x, codes, ends = np.ones(8, np.float32), np.full(8, 3, np.int8), np.array([8])
    for step in (np.nan, np.inf, -1, 1e-39):
        with pytest.raises(ValueError, match="a step is 0, or between"):
            quantize_segments(x, codes, np.array([step], np.float32), bits=4, ends=ends)
    for first, sentence in ((1, "coordinates 1 to 9 of a vector of 8"), (-1, "not negative")):
        with pytest.raises(ValueError, match=sentence):
            quantize_segments(x, codes, np.ones(1, np.float32), bits=4, ends=ends, first=first)
        with pytest.raises(ValueError, match=sentence):
            dequantize_segments(codes, np.ones(1, np.float32), x, ends=ends, first=first)
    with pytest.raises(TypeError, match="codes are int8 or int16, not uint8"):
        dequantize_blocks(codes.view(np.uint8), np.ones(1, np.float32), x, block=8)
    assert (codes == 3).all()
