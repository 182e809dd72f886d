"""A rotation is the naive matrix, orthogonal, undone by its inverse, for any length, on every path."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl_kernels import KEY_BYTES, Stream, keystream, rotate, unrotate
from silofl_kernels.cpu import features
from silofl_kernels.prg import family
from tests.campaigns import mostly_long

SIZES = [1, 2, 3, 5, 8, 13, 64, 100, 255, 257, 1000]
TOLERANCE = {"float32": 3e-6, "float64": 1e-14}
each_float = pytest.mark.parametrize("dtype", ["float32", "float64"])


def stream_of(prg: str = "aes-128-ctr", key: int = 1) -> Stream:
    return Stream(prg, bytes([key]) * KEY_BYTES[prg])


def vector(size: int, dtype: str = "float64", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


def rotated(x: np.ndarray, stream: Stream, block: int | None = None) -> np.ndarray:
    out = x.copy()
    rotate(out, stream, block=block)
    return out


@functools.cache
def hadamard(size: int) -> np.ndarray:
    """Sylvester's matrix, of norm one: entries (-1)^(ones that the numbers of row and column share)."""
    numbers = range(size)
    return np.array([[(-1) ** (i & j).bit_count() for j in numbers] for i in numbers]) / size**0.5


def naive_rotate(x: np.ndarray, stream: Stream, block: int | None) -> np.ndarray:
    """Window after window by the matrix, the last one overlapping where the length is ragged."""
    out, window = x.astype(float), 1
    while 2 * window <= min(x.size, block or x.size):
        window *= 2
    matrix = hadamard(window)
    signs = np.zeros(x.size + window, np.uint8)
    keystream(stream, signs)
    starts = [*range(0, x.size - window + 1, window)] + [x.size - window] * (x.size % window > 0)
    for number, start in enumerate(starts):
        here = slice(start, start + window)
        out[here] = matrix @ (out[here] * (1 - 2.0 * (signs[number * window :][:window] & 1)))
    return out


def halves_rotate(x: np.ndarray, stream: Stream) -> np.ndarray:
    """The same for a large power of two, by halves: H_2n = [[H_n, H_n], [H_n, -H_n]]."""
    signs = np.zeros(x.size, np.uint8)
    keystream(stream, signs)
    out, half = x * (1 - 2.0 * (signs & 1)), x.size // 2
    while half:
        pairs = out.reshape(-1, 2, half)
        out = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
        half //= 2
    return out / x.size**0.5


each_block = pytest.mark.parametrize("block", [None, 1, 4, 64])


def check_matrix(block: int | None, dtype: str, prg: str) -> None:
    for size in SIZES:
        x, stream = vector(size, dtype, size), stream_of(prg)
        want = naive_rotate(x, stream, block)
        assert np.abs(rotated(x, stream, block) - want).max() < TOLERANCE[dtype]


@each_block
def test_it_is_the_naive_matrix_on_every_path(block: int | None, few_prg: str) -> None:
    check_matrix(block, "float32", few_prg)


@each_block
def test_it_is_the_naive_matrix_in_float64(block: int | None) -> None:
    check_matrix(block, "float64", "aes-128-ctr")


@pytest.mark.covering(0)
@pytest.mark.parametrize("power", [12, 13, 14, 17, 21, 22])
def test_windows_larger_than_caches(power: int) -> None:
    x = vector(1 << power)
    assert np.abs(rotated(x, stream_of()) - halves_rotate(x, stream_of())).max() < TOLERANCE["float64"] * 10


@pytest.mark.parametrize("dtype", mostly_long(["float32", "float64"], 1))
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 70_000), st.sampled_from([None, 1, 16, 4096, 1 << 15]), st.integers(0, 9))
def test_norm_inverse_and_linearity(dtype: str, size: int, block: int | None, seed: int) -> None:
    stream, close = stream_of(key=seed), TOLERANCE[dtype]
    x, y = vector(size, dtype, seed), vector(size, dtype, seed + 100)
    there, other = rotated(x, stream, block), rotated(y, stream, block)
    assert np.linalg.norm(there.astype(float)) == pytest.approx(np.linalg.norm(x.astype(float)), rel=close)
    both = rotated((x - 2 * y).astype(dtype), stream, block)
    assert np.allclose(both, there - 2 * other, atol=10 * close)
    unrotate(there, stream, block=block)
    assert np.allclose(there, x, atol=2 * close)


@pytest.mark.parametrize("size", [1, 2, 37, 64, 65, 127])
def test_it_is_orthogonal_and_leaves_no_coordinate_out(size: int) -> None:
    images = np.array([rotated(unit, stream_of()) for unit in np.eye(size)])
    assert np.allclose(images @ images.T, np.eye(size), atol=1e-14)
    assert np.abs(images).max() <= (2 / size) ** 0.5 * 4 if size > 16 else True


def test_a_spike_is_spread_over_all_of_a_ragged_vector() -> None:
    for size in (10_000, 16_385):
        for at in (0, 5000, size - 1):
            x = np.zeros(size)
            x[at] = 1.0
            assert np.abs(rotated(x, stream_of())).max() < 6 * (2 / size) ** 0.5


@pytest.mark.long
@pytest.mark.parametrize("prg", ["aes-128-ctr", "chacha20"])
def test_paths_give_the_same_bytes(prg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, seen = vector(20_003, "float32"), set()
    for path in features.available(family(prg)):
        monkeypatch.setenv(features.FORCE_VARIABLE, path)
        seen.add(rotated(x, stream_of(prg)).tobytes())
    assert len(seen) == 1


def test_another_key_is_another_rotation() -> None:
    x = vector(4000)
    one, other = rotated(x, stream_of(key=1)), rotated(x, stream_of(key=2))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.08


def test_bad_arguments_write_nothing() -> None:
    x = np.ones(8, np.float32)
    frozen = x.copy()
    frozen.flags.writeable = False
    for bad in (x[::2], frozen, x.reshape(2, 4), x.astype(np.float16), x.astype(np.int32)):
        with pytest.raises((ValueError, TypeError)):
            rotate(bad, stream_of())
    for block in (0, -4, 3, 48):
        with pytest.raises(ValueError, match="power of two"):
            unrotate(x, stream_of(), block=block)
    assert (x == 1).all()


IN_PYTHON = """
import numpy as np
from silofl_kernels import Stream, rotate
x = np.arange(21.0)
rotate(x, Stream("chacha20", bytes(32)))
print(x.tobytes().hex())
"""


@pytest.mark.long
def test_without_compilation_the_bytes_are_the_same() -> None:
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    told = subprocess.run(
        [sys.executable, "-c", IN_PYTHON], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == rotated(np.arange(21.0), Stream("chacha20", bytes(32))).tobytes().hex()
