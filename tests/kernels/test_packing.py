"""Packed codes are those of numpy.packbits, bit by bit, and come back with their signs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl_kernels import pack_bits, packed_size, unpack_bits

EVERY_BITS = pytest.mark.parametrize("bits", range(1, 8))


def naive_pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Bit after bit, of the low bits of each code; a sign of one bit is 1 where it is negative."""
    words = codes.astype(int)
    words = words < 0 if codes.dtype == np.int8 and bits == 1 else words & ((1 << bits) - 1)
    stream = [int(word) >> i & 1 for word in words for i in range(bits)]
    return np.packbits(np.array(stream, np.uint8), bitorder="little")


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    out = np.full(packed_size(codes.size, bits) + 2, 99, np.uint8)
    pack_bits(codes, out[1:-1], bits=bits)
    assert out[0] == out[-1] == 99
    return out[1:-1]


def unpacked(words: np.ndarray, like: np.ndarray, bits: int) -> np.ndarray:
    out = np.full(like.size + 2, 99, like.dtype)
    unpack_bits(words, out[1:-1], bits=bits)
    assert out[0] == out[-1] == 99
    return out[1:-1]


def codes_of(size: int, bits: int, *, signed: bool, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if not signed:
        return rng.integers(0, 1 << bits, size, np.uint8)
    if bits == 1:
        return rng.choice(np.array([-1, 1], np.int8), size)
    return rng.integers(-(1 << bits - 1), 1 << bits - 1, size, np.int8)


@EVERY_BITS
@pytest.mark.parametrize("signed", [False, True])
def test_bit_by_bit(bits: int, signed: bool) -> None:
    for size in (0, 1, 2, 7, 8, 9, 15, 16, 17, 64, 65, 127, 1000, 1001):
        codes = codes_of(size, bits, signed=signed, seed=size)
        words = packed(codes, bits)
        assert words.tolist() == naive_pack(codes, bits).tolist()
        assert unpacked(words, codes, bits).tolist() == codes.tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.binary(max_size=200))
def test_any_bytes_come_back(bits: int, content: bytes) -> None:
    codes = np.frombuffer(content, np.uint8) & ((1 << bits) - 1)
    assert unpacked(packed(codes, bits), codes, bits).tobytes() == codes.tobytes()
    middle = codes.size // 16 * 8
    parts = [packed(codes[:middle], bits).tobytes(), packed(codes[middle:], bits).tobytes()]
    assert b"".join(parts) == packed(codes, bits).tobytes()


@EVERY_BITS
def test_codes_of_more_bits_are_refused(bits: int) -> None:
    wrong = {np.uint8: [1 << bits, 255], np.int8: [1 << max(1, bits - 1), -(1 << bits - 1) - 1, -128]}
    for dtype, values in wrong.items():
        for value in values:
            for at in (0, 8, 17):  # in whole groups, and in what is left
                codes = np.full(18, 1 if bits == 1 else 0, dtype)
                codes[at] = value
                with pytest.raises(ValueError, match=f"not all codes have {bits} bits"):
                    packed(codes, bits)


@pytest.mark.parametrize(
    ("codes", "out", "bits", "sentence"),
    [
        (np.zeros(8, np.uint16), np.zeros(4, np.uint8), 4, "codes are uint8 or int8, not uint16"),
        (np.zeros(8, np.uint8), np.zeros(4, np.int8), 4, "packed codes are uint8, not int8"),
        (np.zeros(8, np.uint8), np.zeros(3, np.uint8), 4, "8 codes of 4 bits are 4 bytes, not 3"),
        (np.zeros(8, np.uint8), np.zeros(4, np.uint8), 0, "packed codes have 1 to 7 bits, not 0"),
        (np.zeros(8, np.uint8), np.zeros(8, np.uint8), 8, "packed codes have 1 to 7 bits, not 8"),
        (np.zeros(16, np.uint8)[::2], np.zeros(4, np.uint8), 4, "codes is one-dimensional, contiguous"),
        (np.zeros(8, np.uint8), np.zeros(8, np.uint8)[::2], 4, "out is one-dimensional, contiguous"),
    ],
)
def test_bad_arguments(codes: np.ndarray, out: np.ndarray, bits: int, sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=sentence):
        pack_bits(codes, out, bits=bits)
    with pytest.raises((ValueError, TypeError), match=sentence.rsplit(" is ", maxsplit=1)[-1]):
        unpack_bits(out, codes, bits=bits)
