"""The algorithms in plain Python, straight from the standards: what the kernels must equal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

MASK32 = 0xFFFFFFFF


def gf_multiply(a: int, b: int) -> int:
    """Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197, section 4.2)."""
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = a << 1 ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def s_box(byte: int) -> int:
    """Inverse, then the affine map (FIPS 197, section 5.1.1)."""
    inverse = next((b for b in range(256) if gf_multiply(byte, b) == 1), 0)
    out = 0
    for i in range(8):
        bit = sum(inverse >> ((i + shift) % 8) for shift in (0, 4, 5, 6, 7)) ^ (0x63 >> i)
        out |= (bit & 1) << i
    return out


S_BOX = [s_box(byte) for byte in range(256)]


def aes_round_keys(key: bytes) -> list[list[int]]:
    """Round keys of 16 bytes (FIPS 197, section 5.2)."""
    period, rounds = len(key) // 4, len(key) // 4 + 6
    words, constant = [list(key[4 * i : 4 * i + 4]) for i in range(period)], 1
    for i in range(period, 4 * (rounds + 1)):
        word = list(words[-1])
        if i % period == 0:
            word = [S_BOX[b] for b in word[1:] + word[:1]]
            word[0] ^= constant
            constant = gf_multiply(constant, 2)
        elif period > 6 and i % period == 4:
            word = [S_BOX[b] for b in word]
        words.append([a ^ b for a, b in zip(words[-period], word, strict=True)])
    return [[b for word in words[4 * r : 4 * r + 4] for b in word] for r in range(rounds + 1)]


def aes_block(key: bytes, block: bytes) -> bytes:
    """The cipher (FIPS 197, section 5.1); the state is byte r + 4 c for row r of column c."""
    first, *middle, last = aes_round_keys(key)
    state = [a ^ b for a, b in zip(block, first, strict=True)]
    for round_key in [*middle, last]:
        state = [S_BOX[b] for b in state]
        state = [state[(i + 4 * (i % 4)) % 16] for i in range(16)]
        if round_key is not last:
            state = [
                gf_multiply(state[i], 2)
                ^ gf_multiply(state[i - i % 4 + (i + 1) % 4], 3)
                ^ state[i - i % 4 + (i + 2) % 4]
                ^ state[i - i % 4 + (i + 3) % 4]
                for i in range(16)
            ]
        state = [a ^ b for a, b in zip(state, round_key, strict=True)]
    return bytes(state)


def aes_ctr(key: bytes, length: int, initial: int = 0) -> bytes:
    """Counter mode (NIST SP 800-38A, section 6.5)."""
    blocks = (aes_block(key, (initial + i).to_bytes(16, "big")) for i in range(length // 16 + 1))
    return b"".join(blocks)[:length]


def chacha_block(key: bytes, counter: int, nonce: bytes = bytes(12)) -> bytes:
    """The block function (RFC 8439, section 2.3)."""
    text = b"expand 32-byte k" + key + counter.to_bytes(4, "little") + nonce
    start = [int.from_bytes(text[4 * i : 4 * i + 4], "little") for i in range(16)]
    x = list(start)

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for total, addend, turned, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[total] = (x[total] + x[addend]) & MASK32
            value = x[turned] ^ x[total]
            x[turned] = (value << bits | value >> (32 - bits)) & MASK32

    for _ in range(10):
        for c in range(4):
            quarter(c, 4 + c, 8 + c, 12 + c)
        for c in range(4):
            quarter(c, 4 + (c + 1) % 4, 8 + (c + 2) % 4, 12 + (c + 3) % 4)
    return b"".join(((a + b) & MASK32).to_bytes(4, "little") for a, b in zip(x, start, strict=True))


def round_half_even(value: float) -> float:
    """Nearest integer, ties to even; infinities and NaN stay."""
    return float(round(value)) if math.isfinite(value) else value


def limited_word(value: float, limit: int, bits: int) -> tuple[int, bool]:
    """A rounded value as a word, and whether it was out of bounds."""
    outside = not abs(value) <= limit
    inside = (-limit if value < 0 else limit) if outside else int(value)
    return inside % (1 << bits), outside


def signed(word: int, bits: int) -> int:
    """Two's complement."""
    return word - (1 << bits) if word >> (bits - 1) else word


def quantize(
    x: np.ndarray, scale: float, limit: int, bits: int, draws: np.ndarray | None = None
) -> tuple[list[int], tuple[int, int]]:
    """Words of x, and how many were clipped and not finite; `draws` are 32 bits for each value."""
    real = np.float32 if x.dtype == np.float32 and bits <= 16 else np.float64
    words, outside = [], 0
    for i, value in enumerate(x):
        with np.errstate(all="ignore"):
            product = real(real(value) * real(scale))
            if draws is None:
                rounded = round_half_even(float(product))
            else:
                chance = int(draws[i]) >> 8 if real is np.float32 else int(draws[i])
                fraction = float(product - np.floor(product))
                up = chance * 2.0 ** (-24 if real is np.float32 else -32) < fraction
                rounded = float(np.floor(product)) + up
        word, out = limited_word(rounded, limit, bits)
        words.append(word)
        outside += out
    bad = int((~np.isfinite(x)).sum())
    return words, (outside - bad, bad)


def runs(ends: np.ndarray, first: int, size: int) -> Iterator[tuple[int, slice]]:
    """Each segment that meets coordinates first, first + 1, ..., and which of `size` values it holds."""
    begin = 0
    for number, end in enumerate(ends.tolist()):
        start, stop = (min(max(edge - first, 0), size) for edge in (begin, end))
        if start < stop:
            yield number, slice(start, stop)
        begin = end


def encoding_error(x: np.ndarray, words: list[int], scale: float, bits: int) -> tuple[float, float]:
    """Sums of (word - x * scale)^2 and (x * scale)^2 over finite values, with the product of `quantize`."""
    real = np.float32 if x.dtype == np.float32 and bits <= 16 else np.float64
    lost, there = [], []
    for value, word in zip(x.tolist(), words, strict=True):
        if math.isfinite(value):
            with np.errstate(over="ignore"):
                product = float(real(value) * real(scale))
            product = product if math.isfinite(product) else value * scale
            lost.append((signed(word, bits) - product) ** 2)
            there.append(product**2)
    return math.fsum(lost), math.fsum(there)


def max_abs(x: np.ndarray) -> float:
    """Largest magnitude, infinity where one is not finite."""
    return max((abs(v) if math.isfinite(v) else math.inf for v in x.tolist()), default=0.0)


def exact_digits(value: float, digit_bits: int, count: int, bits: int) -> list[int]:
    """Words of a value in wide fixed point, the lowest digit first."""
    whole = round(abs(Fraction(value)) * 2**96)  # Fraction rounds halves to even
    digits = [whole >> (digit_bits * j) & ((1 << digit_bits) - 1) for j in range(count)]
    return [(-digit if value < 0 else digit) % (1 << bits) for digit in digits]


def exact_sum(words: list[int], digit_bits: int, bits: int) -> Fraction:
    """What the ring sums of such words mean."""
    total = sum(signed(word, bits) << (digit_bits * j) for j, word in enumerate(words))
    return Fraction(total, 2**96)
