"""AES-128 and AES-256 in counter mode: the key schedule, and which code makes the blocks.

FIPS 197 section 5.2 (key expansion), NIST SP 800-38A section 6.5 (counter mode). Block number c of a stream
is the cipher of 64 zero bits followed by c as a 64-bit big-endian integer.

Side channels: `vaes512` and `aesni` are the processor's own instructions; the portable path and the key
schedule are Boolean circuits. None of them looks up a table by a secret or branches on one. The key schedule
runs on Python integers, whose arithmetic is not guaranteed to take the same time for every value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.sbox import sbox

SLOTS = 32
"""64-bit words of one prepared key, for either cipher: round keys, then `ROUNDS_SLOT` and `FIRST_SLOT`."""
ROUNDS_SLOT = 30
FIRST_SLOT = 31  # number of the block at position zero, a multiple of 64: zero but in known-answer tests


def aes_schedules(keys: Sequence[bytes], initial: bytes = bytes(16)) -> NDArray[np.uint64]:
    """Prepared keys, uint64 (len(keys), SLOTS), all of one length: 16 or 32 bytes.

    `initial` is the counter block of position zero, a multiple of 64; its lower half counts on.
    """
    out = np.zeros((len(keys), SLOTS), np.uint64)
    if not keys:
        return out
    rounds = len(keys[0]) // 4 + 6
    words = _expand([bytes(key) for key in keys], 4 * (rounds + 1))
    size = 4 * len(keys)
    expanded = np.frombuffer(b"".join(word.to_bytes(size, "little") for word in words), np.uint8)
    by_key = expanded.reshape(len(words), len(keys), 4).transpose(1, 0, 2).reshape(len(keys), -1)
    out[:, : 2 * (rounds + 1)] = np.ascontiguousarray(by_key).view("<u8")
    upper = int.from_bytes(initial[:8], "little")
    out[:, 0] ^= np.uint64(upper)  # the first step of the cipher adds this round key to the counter block
    out[:, ROUNDS_SLOT] = rounds
    out[:, FIRST_SLOT] = ~63 & int.from_bytes(initial[8:], "big")
    return out


def _expand(keys: list[bytes], count: int) -> list[int]:
    """Key schedule words 0..count-1; each an integer holding that 4-byte word of every key side by side."""
    period, many = len(keys[0]) // 4, len(keys)
    words = [
        int.from_bytes(b"".join(key[4 * i : 4 * i + 4] for key in keys), "little") for i in range(period)
    ]
    every_word = int.from_bytes(b"\1\0\0\0" * many, "little")
    every_byte = every_word * 0x01010101
    constant = 1
    for i in range(period, count):
        word = words[-1]
        if i % period == 0:
            turned = (word >> 8) & (every_word * 0x00FFFFFF) | (word & (every_word * 0xFF)) << 24
            word = _substitute(turned, every_byte) ^ every_word * constant
            constant = constant << 1 ^ (0x11B if constant & 0x80 else 0)
        elif period > 6 and i % period == 4:
            word = _substitute(word, every_byte)
        words.append(words[-period] ^ word)
    return words


def _substitute(word: int, every_byte: int) -> int:
    """S-box on each byte of a long integer."""
    circuit: Any = sbox
    planes = circuit(*((word >> bit) & every_byte for bit in range(8)), every_byte)
    out = 0
    for bit, plane in enumerate(planes):
        out |= plane << bit
    return out
