"""Quantization is the naive arithmetic, word for word, for ragged, huge, tiny and broken input."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl_kernels import KEY_BYTES, Stream, dequantize, keystream, quantize, ring_limit
from tests.campaigns import mostly_long

from . import naive

SPECIAL = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, 126.5, 127.5, -127.5, 1e-40, 3e38, -3e38, np.nan, np.inf, -np.inf]


def vector(dtype: str, size: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(size).astype(dtype) * 60
    x[: len(SPECIAL)] = SPECIAL[:size]
    return x


RINGS = [("float32", 8), ("float32", 16), ("float64", 32), ("float32", 32), ("float64", 8), ("float64", 16)]


@pytest.mark.covering(0)
@pytest.mark.parametrize(("dtype", "bits"), mostly_long(RINGS, 0, 1, 2))
def test_nearest(dtype: str, bits: int) -> None:
    for size, scale, limit in (
        (0, 1.0, 1),
        (1, 1.0, 5),
        (15, 1.0, 127),
        (333, 1.7, 100),
        (90, 1.0, 100),
        (70, 1e30, ring_limit(bits)),
    ):
        x = vector(dtype, size, size)
        kept, out = x.copy(), np.full(size + 2, 7, f"uint{bits}")
        counts = quantize(x, out[1:-1], scale=scale, limit=min(limit, ring_limit(bits)))
        words, want = naive.quantize(x, scale, min(limit, ring_limit(bits)), bits)
        assert out[1:-1].tolist() == words
        assert counts == want
        assert out[0] == out[-1] == 7
        assert x.tobytes() == kept.tobytes()


@pytest.mark.long
@pytest.mark.parametrize(
    ("dtype", "bits", "prg"), mostly_long([("float32", 16, "aes-128-ctr"), ("float64", 8, "chacha20")], 0)
)
def test_stochastic_equals_the_stream(dtype: str, bits: int, prg: str) -> None:
    rounding = Stream(prg, bytes(range(KEY_BYTES[prg])))
    x, offset = vector(dtype, 517), 12345
    draws = np.zeros(4 * x.size, np.uint8)
    keystream(rounding, draws, position=4 * offset)
    out = np.zeros(x.size, f"uint{bits}")
    counts = quantize(x, out, scale=1.3, limit=127, first=offset, rounding=rounding)
    assert (out.tolist(), counts) == naive.quantize(x, 1.3, 127, bits, draws.view(np.uint32))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40_000), st.lists(st.integers(0, 40_000), max_size=5))
def test_any_chunks_give_the_same_words(offset: int, cuts: list[int]) -> None:
    rounding = Stream("aes-128-ctr", bytes(16))
    x = vector("float32", 40_000)
    whole, pieces = np.zeros(x.size, np.uint16), np.zeros(x.size, np.uint16)
    total = quantize(x, whole, scale=0.3, limit=30, first=offset, rounding=rounding)
    edges = [0, *sorted(cuts), x.size]
    met = [
        quantize(x[a:b], pieces[a:b], scale=0.3, limit=30, first=offset + a, rounding=rounding)
        for a, b in pairwise(edges)
    ]
    assert whole.tobytes() == pieces.tobytes()
    assert total == tuple(map(sum, zip(*met, strict=True)))


def test_stochastic_is_unbiased() -> None:
    x = np.full(200_000, 0.3, np.float32)
    out = np.zeros(x.size, np.uint16)
    quantize(x, out, scale=1.0, limit=9, rounding=Stream("aes-128-ctr", b"unbiased rounding"[:16]))
    assert set(out) == {0, 1}
    assert abs(out.mean() - 0.3) < 5 * np.sqrt(0.21 / x.size)
    other = np.zeros(x.size, np.uint16)
    quantize(x, other, scale=1.0, limit=9, rounding=Stream("aes-128-ctr", b"another roundings"[:16]))
    assert abs(np.corrcoef(out, other)[0, 1]) < 0.02


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dequantize(bits: int, dtype: str) -> None:
    top = 1 << bits
    values = [0, 1, top // 2 - 1, top // 2, top - 1]
    words = np.array(values * 9, f"uint{bits}")
    out, step = np.zeros(words.size, dtype), 0.1
    dequantize(words, out, step=step)
    want = [np.dtype(dtype).type(naive.signed(int(w), bits) * step) for w in words]
    assert out.tolist() == want


def test_there_and_back_is_within_half_a_step() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 10_000).astype(np.float32)
    words, back = np.zeros(x.size, np.uint16), np.zeros_like(x)
    assert quantize(x, words, scale=32767.0, limit=32767) == (0, 0)
    dequantize(words, back, step=1 / 32767)
    assert np.abs(back - x).max() <= 0.51 / 32767


def test_bad_arguments_write_nothing() -> None:
    x, out = np.ones(8, np.float32), np.full(8, 3, np.uint16)
    frozen = out.copy()
    frozen.flags.writeable = False
    bad: list[tuple[np.ndarray, np.ndarray, dict[str, float]]] = [
        (x[:4], out, {}),
        (x[::2], out[:4], {}),
        (x.astype(np.float16), out, {}),
        (x, out.astype(np.int16), {}),
        (x, frozen, {}),
        (x.reshape(2, 4), out, {}),
        (x, out, {"scale": np.inf}),
        (x, out, {"scale": np.nan}),
        (x, out, {"limit": 0}),
        (x, out, {"limit": 32768}),
        (x, out, {"first": -1}),
    ]
    for values, words, changed in bad:
        with pytest.raises((ValueError, TypeError)):
            quantize(values, words, **{"scale": 1.0, "limit": 9, **changed})
    assert (out == 3).all()


def test_read_only_input_is_welcome() -> None:
    x, out = np.frombuffer(np.arange(5, dtype=np.float32).tobytes(), np.float32), np.zeros(5, np.uint8)
    quantize(x, out, scale=1.0, limit=9)
    assert out.tolist() == [0, 1, 2, 3, 4]
