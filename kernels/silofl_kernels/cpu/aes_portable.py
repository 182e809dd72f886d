"""AES-CTR for any processor: 64 blocks at a time, bit-sliced, without tables.

FIPS 197 section 5.1. Plane 16 * j + b holds bit j of byte b of the state, one block in each of its 64 bits:
SubBytes is the circuit of `sbox.py` on planes, ShiftRows a renaming, MixColumns exclusive-ors of planes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from silofl_kernels.cpu.aes import FIRST_SLOT, ROUNDS_SLOT
from silofl_kernels.cpu.jit import device
from silofl_kernels.cpu.sbox import sbox

_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_ONE = np.uint64(1)
_BYTES = np.uint64(0x00FF00FF00FF00FF)
_PAIRS = np.uint64(0x0000FFFF0000FFFF)
_circuit = device(sbox, "portable")


def aes_batch(schedules: Any, row: Any, counter: Any, work: Any) -> None:
    """Bytes of stream `row` from block `counter` on, 1024 of them in work[:128]; work is uint64 (384,)."""
    state, other = work[128:256], work[256:384]
    _load_counters(counter + schedules[row, FIRST_SLOT], state, other)
    rounds = np.int64(schedules[row, ROUNDS_SLOT])
    _add_round_key(schedules, row, 0, state)
    for number in range(1, rounds):
        _sub_bytes(state)
        _shift_rows(state, other)
        _mix_columns(other, state)
        _add_round_key(schedules, row, number, state)
    _sub_bytes(state)
    _shift_rows(state, other)
    _add_round_key(schedules, row, rounds, other)
    _store_blocks(other, state, work)


def _swap_bytes(word: Any) -> Any:
    word = ((word >> np.uint64(8)) & _BYTES) | ((word & _BYTES) << np.uint64(8))
    word = ((word >> np.uint64(16)) & _PAIRS) | ((word & _PAIRS) << np.uint64(16))
    return (word >> np.uint64(32)) | (word << np.uint64(32))


def _transpose(rows: Any) -> None:
    """64 x 64 bits in place: bit b of row r changes places with bit r of row b (Warren, section 7-3)."""
    half, mask = 32, np.uint64(0x00000000FFFFFFFF)
    while half:
        shift = np.uint64(half)
        for start in range(0, 64, 2 * half):
            for r in range(start, start + half):
                moved = ((rows[r] >> shift) ^ rows[r + half]) & mask
                rows[r] ^= moved << shift
                rows[r + half] ^= moved
        half //= 2
        mask ^= mask << np.uint64(half)


def _load_counters(first: Any, state: Any, matrix: Any) -> None:
    for block in range(64):
        matrix[block] = _swap_bytes(first + np.uint64(block))
    _transpose(matrix[:64])
    for b in range(8):
        for j in range(8):
            state[16 * j + b] = np.uint64(0)
            state[16 * j + 8 + b] = matrix[8 * b + j]


def _store_blocks(state: Any, matrix: Any, out: Any) -> None:
    for half in range(2):
        for b in range(8):
            for j in range(8):
                matrix[8 * b + j] = state[16 * j + 8 * half + b]
        _transpose(matrix[:64])
        for block in range(64):
            out[2 * block + half] = matrix[block]


def _sub_bytes(state: Any) -> None:
    for b in range(16):
        s = _circuit(
            state[b], state[16 + b], state[32 + b], state[48 + b],
            state[64 + b], state[80 + b], state[96 + b], state[112 + b], _ONES,
        )  # fmt: skip
        state[b], state[16 + b], state[32 + b], state[48 + b] = s[0], s[1], s[2], s[3]
        state[64 + b], state[80 + b], state[96 + b], state[112 + b] = s[4], s[5], s[6], s[7]


def _shift_rows(state: Any, out: Any) -> None:
    for b in range(16):
        source = (5 * b) % 16 if b % 4 else b  # row r of column c comes from column c + r
        for j in range(8):
            out[16 * j + b] = state[16 * j + source]


def _mix_columns(state: Any, out: Any) -> None:
    for b in range(16):
        column = b - b % 4
        b1, b2, b3 = column + (b + 1) % 4, column + (b + 2) % 4, column + (b + 3) % 4
        carry = state[112 + b] ^ state[112 + b1]  # what doubling in GF(2^8) shifts out
        lower = np.uint64(0)
        for j in range(8):
            here = state[16 * j + b] ^ state[16 * j + b1]
            plane = state[16 * j + b1] ^ state[16 * j + b2] ^ state[16 * j + b3] ^ lower
            out[16 * j + b] = plane ^ carry if j in (0, 1, 3, 4) else plane
            lower = here


def _add_round_key(schedules: Any, row: Any, number: Any, state: Any) -> None:
    for b in range(16):
        byte = schedules[row, 2 * number + b // 8] >> np.uint64(8 * (b % 8))
        for j in range(8):
            state[16 * j + b] ^= np.uint64(0) - ((byte >> np.uint64(j)) & _ONE)


_swap_bytes, _transpose = device(_swap_bytes, "aes"), device(_transpose, "aes")
_load_counters, _store_blocks = device(_load_counters, "aes"), device(_store_blocks, "aes")
_sub_bytes, _shift_rows = device(_sub_bytes, "aes"), device(_shift_rows, "aes")
_mix_columns, _add_round_key = device(_mix_columns, "aes"), device(_add_round_key, "aes")
aes_batch = device(aes_batch, "portable")
