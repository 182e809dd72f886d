"""`silofl bench kernels`: keystreams beside OpenSSL, passes over a vector beside a copy of it, noise
and rotations beside NumPy."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import types
from numpy.typing import NDArray

import silofl_kernels as sk
from silofl.bench.measure import Row, compare
from silofl_kernels.cpu import streams
from silofl_kernels.cpu.jit import Kernel, array, kernel
from silofl_kernels.prg import family

CACHE_BYTES = 16384
"""Keystream bytes made over and over: with OpenSSL's input they fit a first-level cache of 32 KiB."""
CACHE_TIMES = 1000
MASK_GOALS = {1: "<= 1.0", 4: "<= 1.4", 8: "<= 2.2"}
"""Most that quantizing with so many masks may cost, in copies of the float32 input."""

NOISE_GOAL = "<= 0.5"
"""Most that a sample of discrete noise may cost, in samples of NumPy's float64 normal, up to a standard
deviation of 1000."""
ROTATED = 1 << 20
"""Longest vector that is rotated: NumPy is slow at it."""


def run(*, parameters: int = 1 << 24, repeats: int = 15) -> list[Row]:
    """Measure every kernel.

    Args:
        parameters: length of the vectors.
        repeats: rounds of each measurement.
    """
    rows = [*keystreams(repeats), *masks("aes-128-ctr", parameters, repeats, MASK_GOALS)]
    rows += masks("chacha20", parameters, repeats, {})
    rows += sums(parameters, repeats) + noise(parameters, repeats)
    return rows + rotations(min(parameters, ROTATED), repeats)


def keystreams(repeats: int) -> list[Row]:
    """Each generator in the first-level cache, beside OpenSSL making as many bytes there.

    Ratios are times, so a third means three times as fast.
    """
    rows: list[Row] = []
    gigabytes = CACHE_BYTES * CACHE_TIMES / 1e9
    goals: dict[sk.Prg, str] = {"aes-128-ctr": "<= 0.333", "aes-256-ctr": "", "chacha20": "<= 1.0"}
    for prg, goal in goals.items():
        key, reference = secrets.token_bytes(sk.KEY_BYTES[prg]), f"{prg}, OpenSSL"
        calls = {reference: openssl_calls(prg, key), f"{prg}, in cache": kernel_calls(prg, key)}
        rows += compare(
            calls, reference=reference, rounds=repeats, gigabytes=gigabytes, goals={f"{prg}, in cache": goal}
        )
    return rows


def openssl_calls(prg: sk.Prg, key: bytes) -> Callable[[], None]:
    """CACHE_TIMES updates of CACHE_BYTES each into one buffer."""
    zeros, out = bytes(CACHE_BYTES), bytearray(CACHE_BYTES + 64)
    if prg == "chacha20":
        encryptor = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor()
    else:
        encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def calls() -> None:
        for _ in range(CACHE_TIMES):
            encryptor.update_into(zeros, out)

    return calls


def kernel_calls(prg: sk.Prg, key: bytes) -> Callable[[], None]:
    """As many bytes of our stream over one buffer, from one call."""
    stream, out = sk.Stream(prg, key), np.zeros(CACHE_BYTES, np.uint8)
    code = _repeat_kernel(prg)
    return lambda: code(out, stream.prepared, CACHE_TIMES)


def _repeat_kernel(prg: sk.Prg) -> Kernel:
    """Kernel (out, prepared, times): the next part of the stream over `out`, so many times."""
    steps = streams.steps(family(prg), 8)
    fill, work_words = steps.fill, streams.WORK_WORDS

    def fill_repeatedly(out: Any, prepared: Any, times: Any) -> None:
        work = np.empty(work_words, np.uint64)
        for turn in range(times):
            fill(out, turn * out.size, prepared, work)

    return kernel(fill_repeatedly, steps.name, array("uint8"), array("uint64", 2, readonly=True), types.int64)


def masks(prg: sk.Prg, parameters: int, repeats: int, goals: dict[int, str]) -> list[Row]:
    """Quantize to 16 bits with some masks in one pass, beside a copy of the float32 input."""
    x = np.random.default_rng(0).standard_normal(parameters).astype(np.float32)
    copy, out = np.empty_like(x), np.zeros(parameters, np.uint16)
    calls: dict[str, Callable[[], object]] = {"copy of the input": lambda: np.copyto(copy, x)}
    named: dict[str, str] = {}
    for count in (0, 1, 4, 8):
        keys = [secrets.token_bytes(sk.KEY_BYTES[prg]) for _ in range(count)]
        chosen = sk.MaskSet(prg, keys, [1, -1, -1, 1, 1, -1, -1, 1][:count])
        name = f"quantize, {count} masks, {prg}"
        calls[name], named[name] = _masked(x, out, chosen), goals.get(count, "")
    return compare(
        calls, reference="copy of the input", rounds=repeats, gigabytes=x.nbytes / 1e9, goals=named
    )


def _masked(x: NDArray[np.float32], out: NDArray[np.uint16], chosen: sk.MaskSet) -> Callable[[], object]:
    return lambda: sk.quantize_and_mask(x, out, scale=1000.0, limit=32767, masks=chosen)


def sums(parameters: int, repeats: int) -> list[Row]:
    """The sum of four rows, dequantization and the float sum, beside copies of what they read."""
    words, slice_ = np.ones((4, parameters // 4), np.uint16), np.zeros(parameters // 4, np.uint16)
    floats, out = np.ones((4, parameters // 4), np.float32), np.zeros(parameters, np.float32)
    words_copy, floats_copy = np.empty_like(words), np.empty_like(floats)
    keys = [secrets.token_bytes(16) for _ in range(4)]
    chosen = sk.MaskSet("aes-128-ctr", keys, [-1] * 4)
    over_words: dict[str, Callable[[], Any]] = {
        "copy of 16-bit words": lambda: np.copyto(words_copy, words),
        "reduce 4 rows": lambda: sk.reduce_rows(words, slice_),
        "reduce 4 rows, 4 masks off": lambda: sk.reduce_rows(words, slice_, masks=chosen),
    }
    over_floats: dict[str, Callable[[], Any]] = {
        "copy of floats": lambda: np.copyto(floats_copy, floats),
        "dequantize": lambda: sk.dequantize(words.reshape(-1), out[: words.size], step=1e-3),
        "reduce 4 float rows": lambda: sk.reduce_rows_float(floats, out[: parameters // 4]),
    }
    rows = compare(
        over_words, reference="copy of 16-bit words", rounds=repeats, gigabytes=words.nbytes / 1e9,
        goals={"reduce 4 rows": "<= 1.2"},
    )  # fmt: skip
    return rows + compare(
        over_floats, reference="copy of floats", rounds=repeats, gigabytes=floats.nbytes / 1e9
    )


def noise(samples: int, repeats: int) -> list[Row]:
    """Discrete noise added to 32-bit words, beside NumPy's normal in float64 for as many samples.

    Gigabytes are of samples of 4 bytes: 50 million samples a second are 0.2 GB/s.
    """
    generator, floats, words = np.random.default_rng(0), np.empty(samples), np.zeros(samples, np.uint32)
    calls: dict[str, Callable[[], object]] = {"NumPy normal": lambda: generator.standard_normal(out=floats)}
    goals: dict[str, str] = {}
    stream = sk.Stream("aes-128-ctr", secrets.token_bytes(16))
    for deviation in (4, 100, 1000, 10_000):
        name = f"discrete Gaussian, std {deviation}"
        calls[name] = _noisy(words, sk.discrete_gaussian(float(deviation**2)), stream)
        goals[name] = NOISE_GOAL if deviation <= 1000 else ""
    calls["Skellam, std 100"], goals["Skellam, std 100"] = _noisy(words, sk.skellam(1e4), stream), NOISE_GOAL
    other = sk.Stream("chacha20", secrets.token_bytes(32))
    calls["discrete Gaussian, std 100, chacha20"] = _noisy(words, sk.discrete_gaussian(1e4), other)
    return compare(
        calls, reference="NumPy normal", rounds=repeats, goals=goals,
        gigabytes=words.nbytes / 1e9,
    )  # fmt: skip


def _noisy(words: NDArray[np.uint32], table: sk.NoiseTable, stream: sk.Stream) -> Callable[[], object]:
    return lambda: sk.add_noise(words, table, stream)


def rotations(parameters: int, repeats: int) -> list[Row]:
    """A random rotation there and back, beside the same transform in NumPy (the signs left out)."""
    power = 1 << (parameters.bit_length() - 1)
    x = np.random.default_rng(0).standard_normal(power).astype(np.float32)
    stream = sk.Stream("aes-128-ctr", secrets.token_bytes(16))
    calls: dict[str, Callable[[], object]] = {
        "Hadamard transform, NumPy": lambda: _hadamard(x),
        "rotate": lambda: sk.rotate(x, stream),
        "unrotate": lambda: sk.unrotate(x, stream),
    }
    return compare(
        calls, reference="Hadamard transform, NumPy", rounds=repeats, gigabytes=x.nbytes / 1e9,
        goals={"rotate": "<= 0.2", "unrotate": "<= 0.2"},
    )  # fmt: skip


def _hadamard(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The orthonormal transform by whole-array sums and differences."""
    out, half = x, x.size // 2
    while half:
        pairs = out.reshape(-1, 2, half)
        out = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
        half //= 2
    return out.reshape(-1) * np.float32(x.size**-0.5)
