"""ChaCha20 for any processor: sixteen blocks at a time in plain loops that a compiler may vectorise.

RFC 8439 section 2.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from silofl_kernels.cpu.jit import device

_LANES = 16


def chacha_batch(schedules: Any, row: Any, counter: Any, work: Any) -> None:
    """Bytes of stream `row` from block `counter` on, 1024 of them in work[:128]; work is uint64 (384,)."""
    x = work[128:256].view(np.uint32)
    start = work[256:384].view(np.uint32)
    for word in range(16):
        value = np.uint32((schedules[row, word // 2] >> np.uint64(32 * (word % 2))) & np.uint64(0xFFFFFFFF))
        for lane in range(_LANES):
            start[word * _LANES + lane] = value
    for lane in range(_LANES):
        start[12 * _LANES + lane] += np.uint32((counter + np.uint64(lane)) & np.uint64(0xFFFFFFFF))
    for i in range(x.size):
        x[i] = start[i]
    for _ in range(10):
        for c in range(4):
            _quarter_round(x, c, 4 + c, 8 + c, 12 + c)
        for c in range(4):
            _quarter_round(x, c, 4 + (c + 1) % 4, 8 + (c + 2) % 4, 12 + (c + 3) % 4)
    out = work[:128].view(np.uint32)
    for lane in range(_LANES):
        for word in range(16):
            out[lane * 16 + word] = x[word * _LANES + lane] + start[word * _LANES + lane]


def _quarter_round(x: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    wa, wb = x[a * _LANES : (a + 1) * _LANES], x[b * _LANES : (b + 1) * _LANES]
    wc, wd = x[c * _LANES : (c + 1) * _LANES], x[d * _LANES : (d + 1) * _LANES]
    for i in range(_LANES):
        wa[i] += wb[i]
        wd[i] = _rotate(np.uint32(wd[i] ^ wa[i]), 16)
        wc[i] += wd[i]
        wb[i] = _rotate(np.uint32(wb[i] ^ wc[i]), 12)
        wa[i] += wb[i]
        wd[i] = _rotate(np.uint32(wd[i] ^ wa[i]), 8)
        wc[i] += wd[i]
        wb[i] = _rotate(np.uint32(wb[i] ^ wc[i]), 7)


def _rotate(word: Any, bits: Any) -> Any:
    return np.uint32(np.uint32(word << np.uint32(bits)) | np.uint32(word >> np.uint32(32 - bits)))


_rotate, _quarter_round = device(_rotate, "chacha"), device(_quarter_round, "chacha")
chacha_batch = device(chacha_batch, "portable")
