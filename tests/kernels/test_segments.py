"""Each tensor of a vector has its own scale: every kernel does what it would do to each of them alone."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl_kernels import (
    KEY_BYTES,
    MaskSet,
    Segments,
    Stream,
    add_masks,
    dequantize,
    max_abs,
    quantize,
    quantize_and_mask,
    reduce_rows,
    reduce_rows_dequantize,
    ring_limit,
)
from silofl_kernels.cpu import features
from tests.campaigns import mostly_long

from . import naive

RAGGED = [0, 0, 10, 20, 20, 31, 400, 5000, 5001, 5511, 24_000, 24_000, 41_000, 41_003]
"""Ends of segments: empty ones, biases of ten, some that fill steps and tiles, and one value alone."""


each_kind = pytest.mark.parametrize(
    ("dtype", "bits"), [("float32", 8), ("float32", 16), ("float64", 8), ("float32", 32)]
)


def segments(ends: list[int], bits: int = 16, seed: int = 0) -> Segments:
    rng = np.random.default_rng(seed)
    limits = rng.integers(1, ring_limit(bits), len(ends))
    return Segments(np.array(ends), np.exp(rng.uniform(-2, 4, len(ends))), limits)


def vector(dtype: str, size: int, *, spoiled: bool = True) -> np.ndarray:
    x = (np.random.default_rng(size).standard_normal(size) * 60).astype(dtype)
    if spoiled and size > 5:
        x[[0, size // 3, size // 2, -1]] = np.nan, np.inf, 1e30, -np.inf
    return x


def masks_of(prg: str, count: int = 3) -> MaskSet:
    return MaskSet(prg, [bytes([n]) * KEY_BYTES[prg] for n in range(count)], [1, -1, 1][:count])


@pytest.mark.parametrize(
    ("dtype", "bits"),
    mostly_long([("float32", 8), ("float32", 16), ("float64", 16), ("float32", 32)], 0, 1),
)
def test_words_are_the_naive_ones(dtype: str, bits: int) -> None:
    ends = [0, 7, 7, 40, 41, 300, 333]
    parts = segments(ends, bits)
    for first, size in ((0, 333), (0, 0), (3, 330), (7, 33), (41, 1), (333, 0)):
        x = vector(dtype, size)
        out, want, total = np.zeros(size, f"uint{bits}"), [], [0, 0]
        counts = quantize(x, out, segments=parts, first=first)
        for own, run in naive.runs(parts.ends, first, size):
            words, met = naive.quantize(x[run], parts.scales[own], int(parts.limits[own]), bits)
            want += words
            total = [a + b for a, b in zip(total, met, strict=True)]
        assert out.tolist() == want
        assert list(counts) == total


@pytest.mark.parametrize(
    ("prg", "noisy"),
    mostly_long([(prg, noisy) for prg in ("aes-128-ctr", "chacha20") for noisy in (False, True)], 0, 1, 2),
)
def test_each_tensor_as_if_alone(prg: str, noisy: bool) -> None:
    parts, masks = segments(RAGGED), masks_of(prg)
    rounding = Stream(prg, bytes(KEY_BYTES[prg])) if noisy else None
    x = vector("float32", 41_003)
    whole, alone = np.zeros(x.size, np.uint16), np.zeros(x.size, np.uint16)
    counts = quantize_and_mask(x, whole, segments=parts, masks=masks, offset=77, first=0, rounding=rounding)
    met = [0, 0]
    for own, (a, b) in enumerate(pairwise([0, *RAGGED])):
        single = quantize(
            x[a:b], alone[a:b], scale=float(parts.scales[own]), limit=int(parts.limits[own]),
            first=a, rounding=rounding,
        )  # fmt: skip
        met = [p + q for p, q in zip(met, single, strict=True)]
    add_masks(alone, masks, offset=77)
    assert whole.tobytes() == alone.tobytes()
    assert list(counts) == met


def test_every_path_gives_the_same_words_and_errors(few_prg: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, x = segments(RAGGED), vector("float32", 41_003)

    def found() -> tuple[bytes, tuple[int, int], np.ndarray]:
        masks, rounding = masks_of(few_prg), Stream(few_prg, bytes(KEY_BYTES[few_prg]))
        words, error = np.zeros(x.size, np.uint16), np.zeros((len(parts), 2))
        counts = quantize_and_mask(
            x, words, segments=parts, masks=masks, offset=77, first=0, rounding=rounding, error=error
        )
        return words.tobytes(), counts, error

    words, counts, error = found()
    monkeypatch.delenv(features.FORCE_VARIABLE)
    fastest = found()
    assert (words, counts) == fastest[:2]
    np.testing.assert_allclose(error, fastest[2], rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40_000), max_size=12), st.lists(st.integers(0, 40_000), max_size=4))
def test_any_chunks_give_the_same_words(ends: list[int], cuts: list[int]) -> None:
    parts, masks = segments([*sorted(ends), 40_000]), masks_of("aes-128-ctr")
    rounding = Stream("aes-128-ctr", bytes(16))
    x = vector("float32", 40_000)
    whole, pieces = np.zeros(x.size, np.uint16), np.zeros(x.size, np.uint16)
    errors = np.zeros((2, len(parts), 2))
    chosen = {"segments": parts, "masks": masks, "rounding": rounding}
    total = quantize_and_mask(x, whole, offset=500, first=0, error=errors[0], **chosen)
    met = [
        quantize_and_mask(x[a:b], pieces[a:b], offset=500 + a, first=a, error=errors[1], **chosen)
        for a, b in pairwise([0, *sorted(cuts), x.size])
    ]
    assert whole.tobytes() == pieces.tobytes()
    assert total == tuple(map(sum, zip(*met, strict=True)))
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-5)


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("dtype", "bits", "prg"),
    [
        *(("float32", 16, ""), ("float64", 32, "")),
        pytest.param("float32", 32, "", marks=pytest.mark.long),
        *(("float32", 16, "aes-128-ctr"), ("float32", 16, "chacha20"), ("float64", 32, "aes-128-ctr")),
        pytest.param("float64", 8, "", marks=pytest.mark.long),
        pytest.param("float64", 8, "aes-128-ctr", marks=pytest.mark.long),
        pytest.param("float32", 8, "", marks=pytest.mark.long),
        pytest.param("float32", 8, "aes-128-ctr", marks=pytest.mark.long),
        pytest.param("float32", 32, "chacha20", marks=pytest.mark.long),
    ],
)
def test_the_error_is_the_naive_one(dtype: str, bits: int, prg: str) -> None:
    ends = [0, 7, 7, 40, 41, 300, 3000, 20_000]
    parts, masks = segments(ends, bits), masks_of(prg, 3) if prg else masks_of("aes-128-ctr", 0)
    for first, size in ((0, 20_000), (9, 0), (3, 330)):
        for spoiled in (False, True):
            x = vector(dtype, size, spoiled=spoiled)
            masked, words, error = *np.zeros((2, size), f"uint{bits}"), np.ones((8, 2))
            counts = quantize_and_mask(x, masked, segments=parts, masks=masks, first=first, error=error)
            assert counts == quantize(x, words, segments=parts, first=first)
            again = words.copy()
            add_masks(again, masks)
            assert masked.tobytes() == again.tobytes()
            want = np.ones((8, 2))
            for own, run in naive.runs(parts.ends, first, size):
                want[own] += naive.encoding_error(x[run], words[run].tolist(), parts.scales[own], bits)
            np.testing.assert_allclose(error, want, rtol=1e-5)


def test_the_error_of_a_single_scale(fast_prg: str) -> None:
    x = vector("float32", 20_011, spoiled=False)
    words, error = np.zeros(x.size, np.uint16), np.zeros((1, 2))
    quantize(x, words, scale=3.0, limit=200)
    quantize_and_mask(x, words.copy(), scale=3.0, limit=200, masks=masks_of(fast_prg), offset=5, error=error)
    want = naive.encoding_error(x, words.tolist(), 3.0, 16)
    np.testing.assert_allclose(error, [want], rtol=1e-5)
    assert 0 < np.sqrt(error[0, 0] / error[0, 1]) < 1


def test_the_error_of_products_whose_squares_overflow() -> None:
    x, error = np.full(100, 1e25, np.float32), np.zeros((1, 2))
    masks = masks_of("aes-128-ctr")
    quantize_and_mask(x, np.zeros(100, np.uint16), scale=1.0, limit=7, masks=masks, error=error)
    np.testing.assert_allclose(error, [[1e52, 1e52]], rtol=1e-5)


@pytest.mark.covering(0)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_dequantize(dtype: str, bits: int) -> None:
    parts, rng = segments(RAGGED), np.random.default_rng(0)
    rows = rng.integers(0, 1 << bits, (3, 41_003)).astype(f"uint{bits}")
    words, masks = np.zeros(41_003, f"uint{bits}"), masks_of("aes-128-ctr")
    for first, size in ((0, 41_003), (15, 5000), (41_003, 0)):
        some = words[:size]
        reduce_rows([row[:size] for row in rows], some, masks=masks, offset=33)
        out, alone, both = np.zeros((3, size), dtype)
        dequantize(some, out, steps=parts.scales, ends=parts.ends, first=first)
        for own, run in naive.runs(parts.ends, first, size):
            dequantize(some[run], alone[run], step=float(parts.scales[own]))
        assert out.tobytes() == alone.tobytes()
        reduce_rows_dequantize(
            [row[:size] for row in rows], both, steps=parts.scales, ends=parts.ends, masks=masks,
            offset=33, first=first,
        )  # fmt: skip
        assert both.tobytes() == alone.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_max_abs(dtype: str) -> None:
    x, ends = vector(dtype, 41_003), np.array(RAGGED)
    x[12] = -0.0
    want = [naive.max_abs(x[a:b]) for a, b in pairwise([0, *RAGGED])]
    assert max_abs(x, ends).tolist() == want
    assert want.count(np.inf) >= 3
    assert [max_abs(x[a:b]) for a, b in pairwise([0, *RAGGED])] == want
    assert max_abs(x[:0], ends[:0]).tolist() == []


def test_segments_are_frozen_copies() -> None:
    ends = np.array([3, 5])
    parts = Segments(ends, [1, 2], [7, 8])
    ends[0] = 9
    assert (parts.ends.tolist(), parts.size, len(parts), parts.largest_limit) == ([3, 5], 5, 2, 8)
    with pytest.raises(ValueError, match="read-only"):
        parts.scales[0] = 3.0


@pytest.mark.parametrize(
    ("ends", "scales", "limits", "told"),
    [
        ([3, 2], [1, 1], [1, 1], "ascend"),
        ([-1, 2], [1, 1], [1, 1], "not negative"),
        ([1, 2], [1], [1, 1], "2 ends, 1 scales, 2 limits"),
        ([1, 2], [1, np.inf], [1, 1], "finite, not inf"),
        ([1, 2], [1, 1], [1, 0], "at least 1, not 0"),
        ([1.5, 2], [1, 1], [1, 1], "whole numbers"),
        ([[1]], [1], [1], "a vector"),
    ],
)
def test_bad_segments(ends: list, scales: list, limits: list, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Segments(ends, scales, limits)


def test_bad_arguments_write_nothing() -> None:
    parts, x, out = Segments([4, 8], [1, 1], [9, 200]), np.ones(8, np.float32), np.full(8, 3, np.uint16)
    frozen = np.zeros((2, 2))
    frozen.flags.writeable = False
    for bad in (
        {"first": 1},
        {"first": -1},
        {"scale": 1.0},
        {"segments": None},
        {"segments": None, "scale": 1.0},
    ):
        with pytest.raises(ValueError):
            quantize(x, out, **{"segments": parts, **bad})
    for bad in (
        {"error": np.zeros((1, 2))},
        {"error": np.zeros((2, 2), np.float32)},
        {"error": frozen},
        {"error": np.zeros((2, 4))[:, ::2]},
    ):
        with pytest.raises(ValueError, match="error"):
            quantize_and_mask(x, out, segments=parts, masks=masks_of("aes-128-ctr"), **bad)
    with pytest.raises(ValueError, match="limit is 1 to 127"):
        quantize(x, out.astype(np.uint8), segments=parts)
    steps = np.ones(2)
    for bad in (
        {"steps": steps},
        {"ends": parts.ends, "step": 1.0, "steps": steps},
        {"ends": parts.ends, "steps": steps[:1]},
        {"ends": parts.ends[::-1].copy(), "steps": steps},
        {"ends": parts.ends, "steps": steps, "first": 1},
        {"ends": parts.ends, "steps": steps.astype(np.float32)},
        {},
    ):
        with pytest.raises(ValueError):
            dequantize(out, x, **bad)
        with pytest.raises(ValueError):
            reduce_rows_dequantize([out], x, **bad)
    for ends in (parts.ends[:1], parts.ends[:0], parts.ends[::-1].copy(), parts.ends.astype(np.int32)):
        with pytest.raises(ValueError):
            max_abs(x, ends)
    assert (out == 3).all()
    assert (x == 1).all()


EVERYTHING = """
import numpy as np
from silofl_kernels import ExactFormat, MaskSet, Segments, Stream, dequantize, max_abs, quantize_and_mask
x = (np.random.default_rng(0).standard_normal(300) * 60).astype(np.float32)
x[[0, 100]] = np.nan, np.inf
parts, error = Segments([0, 7, 7, 40, 300], [1.5, 2, 3, 4, 5], [90, 100, 200, 3000, 40]), np.zeros((5, 2))
words, out, prg = np.zeros(300, np.uint16), np.zeros(300, np.float32), "aes-128-ctr"
chosen = {"masks": MaskSet(prg, [bytes(16)], [1]), "rounding": Stream(prg, bytes(range(16)))}
counts = quantize_and_mask(x, words, segments=parts, offset=3, first=0, error=error, **chosen)
dequantize(words, out, steps=parts.scales, ends=parts.ends)
form, values, sums = ExactFormat(16, 4), np.array([1 / 3, -5e-30, 2.0**100, np.nan, 2.0**-97]), np.zeros(5)
digits = np.zeros(5 * form.words, np.uint16)
print(form.encode(values, digits, weight=0.7), digits.tolist(), tuple(map(int, counts)), words.tolist())
form.decode(digits, sums)
print(sums.tolist(), out.tolist(), max_abs(x, parts.ends).tolist(), np.log(error + 1).round(4).tolist())
"""


def test_without_compilation_everything_is_the_same() -> None:
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EVERYTHING], env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()) as here:
        exec(EVERYTHING, {})
    assert told.stdout == here.getvalue()
