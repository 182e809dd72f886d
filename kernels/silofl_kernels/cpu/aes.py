"""AES-128 and AES-256 in counter mode: the key schedule, and which code makes the blocks.

FIPS 197 section 5.2 (key expansion), NIST SP 800-38A section 6.5 (counter mode). Block number c of a stream
is the cipher of 64 zero bits followed by c as a 64-bit big-endian integer.

Side channels: `vaes512`, `vaes256` and `aesni` are the processor's own instructions; the portable path and
the key schedule are Boolean circuits. None of them looks up a table by a secret or branches on one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.sbox import sbox

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
    size = len(keys[0])
    rounds = size // 4 + 6
    out[:, : size // 8] = np.frombuffer(b"".join(keys), "<u8").reshape(len(keys), -1)
    _expander()(out.view("<u4"), size // 4, 4 * (rounds + 1))
    upper = int.from_bytes(initial[:8], "little")
    out[:, 0] ^= np.uint64(upper)  # the first step of the cipher adds this round key to the counter block
    out[:, ROUNDS_SLOT] = rounds
    out[:, FIRST_SLOT] = ~63 & int.from_bytes(initial[8:], "big")
    return out


_FIRST_BITS = np.uint64(0x01010101)
_circuit = device(sbox, "schedule")


def _substitute(word: Any) -> Any:
    """S-box on each of the four bytes of a word, all at once: bit j of every byte makes plane j."""
    planes = _circuit(
        word & _FIRST_BITS,
        (word >> np.uint64(1)) & _FIRST_BITS,
        (word >> np.uint64(2)) & _FIRST_BITS,
        (word >> np.uint64(3)) & _FIRST_BITS,
        (word >> np.uint64(4)) & _FIRST_BITS,
        (word >> np.uint64(5)) & _FIRST_BITS,
        (word >> np.uint64(6)) & _FIRST_BITS,
        (word >> np.uint64(7)) & _FIRST_BITS,
        _FIRST_BITS,
    )
    out = np.uint64(0)
    for bit in range(8):
        out |= planes[bit] << np.uint64(bit)
    return out


_substituted = device(_substitute, "schedule")


@functools.cache
def _expander() -> Kernel:
    """Kernel (rows, period, count): words `period` to `count` - 1 of every row from those before them."""

    def expand_keys(rows: Any, period: Any, count: Any) -> None:
        for row in range(rows.shape[0]):
            words, constant = rows[row], 1
            for i in range(period, count):
                word = np.uint64(words[i - 1])
                if i % period == 0:
                    turned = (word >> np.uint64(8)) | ((word & np.uint64(0xFF)) << np.uint64(24))
                    word = _substituted(turned) ^ np.uint64(constant)
                    constant = (constant << 1) ^ (0x11B if constant & 0x80 else 0)
                elif period > 6 and i % period == 4:
                    word = _substituted(word)
                words[i] = np.uint32(np.uint64(words[i - period]) ^ word)

    return kernel(expand_keys, "aes", array("uint32", 2), types.int64, types.int64)
