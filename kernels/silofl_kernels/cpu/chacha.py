"""ChaCha20 keystreams: the initial state, and which code makes the blocks.

RFC 8439 section 2.3: 256-bit key, 32-bit block counter from zero, 96-bit nonce (zero, unless given: every key
is used for one stream). A stream ends after 2^32 blocks, 256 GiB; a position beyond is refused, not wrapped.
Additions, rotations and exclusive-ors only: no table and no branch depends on a secret.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.cpu.aes import SLOTS


def chacha_schedules(keys: Sequence[bytes], nonce: bytes = bytes(12)) -> NDArray[np.uint64]:
    """Prepared keys, uint64 (len(keys), SLOTS): the state of block zero in the first eight words."""
    out = np.zeros((len(keys), SLOTS), np.uint64)
    for row, key in zip(out, keys, strict=True):
        state = b"expand 32-byte k" + bytes(key) + bytes(4) + nonce
        row[:8] = np.frombuffer(state, "<u8")
    return out
