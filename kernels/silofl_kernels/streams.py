"""Secret keystreams: a function of (generator, key) alone, of which any part can be made by itself.

The position in a stream is the number of a byte. Every path gives the bytes of the standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.backend import backend_of
from silofl_kernels.cpu.aes import aes_schedules
from silofl_kernels.cpu.chacha import chacha_schedules
from silofl_kernels.prg import KEY_BYTES, Prg, check_key, check_span

__all__ = ["KEY_BYTES", "Prg", "Stream", "keystream", "schedules"]


class Stream:
    """One secret keystream. Its key shows in no repr and it refuses to be pickled.

    Args:
        prg: "aes-128-ctr", "aes-256-ctr" (NIST SP 800-38A) or "chacha20" (RFC 8439).
        key: 16, 32 or 32 secret bytes.

    Raises:
        ValueError: an unknown generator, or a key of the wrong length.
    """

    __slots__ = ("_schedules", "prg")

    def __init__(self, prg: Prg, key: bytes) -> None:
        self.prg: Prg = prg
        self._schedules = schedules(prg, [key])

    def __repr__(self) -> str:
        return f"Stream({self.prg!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret stream is not pickled")

    @property
    def prepared(self) -> NDArray[np.uint64]:
        """Secret: the prepared key, uint64 (1, 32), as kernels take it."""
        return self._schedules


def schedules(prg: Prg, keys: Sequence[bytes]) -> NDArray[np.uint64]:
    """Prepared keys, uint64 (len(keys), 32), made on the CPU; as secret as the keys.

    Raises:
        ValueError: an unknown generator, or a key of the wrong length.
    """
    for number, key in enumerate(keys):
        check_key(prg, key, number)
    return chacha_schedules(keys) if prg == "chacha20" else aes_schedules(keys)


def keystream(stream: Stream, out: NDArray[np.uint8], *, position: int = 0) -> None:
    """Write bytes `position`, `position` + 1, ... of `stream` over `out`.

    Args:
        stream: the secret stream.
        out: uint8 (length,), C-contiguous and writable.
        position: number of the first byte, any integer from 0.

    Raises:
        ValueError: `out` is no such array, or the stream ends before (ChaCha20: 256 GiB).
    """
    backend = backend_of(out)
    if out.dtype != np.uint8 or out.ndim != 1 or not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("keystream fills a writable, contiguous, one-dimensional uint8 array")
    check_span(stream.prg, position, out.size)
    backend.keystream(out, stream, position)
