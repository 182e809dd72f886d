"""Additive masks in the ring: words plus or minus secret streams, put on and taken off in one pass.

Element i of a mask is the B-bit word at byte i * B / 8 of its stream (little-endian), so a slice of a mask
can be made alone. Words stay in registers, or at most in the first-level cache, while every mask goes onto
them; a mask itself never reaches memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from silofl_kernels import streams
from silofl_kernels.backend import backend_of
from silofl_kernels.checks import Floats, check_vector
from silofl_kernels.prg import Prg, check_span, family
from silofl_kernels.quantize import Counts, check_error, check_quantize, check_rounding, counts
from silofl_kernels.ring import Words, ring_bits
from silofl_kernels.segments import Segments
from silofl_kernels.streams import Stream


class MaskSet:
    """m secret masks and their signs. Keys show in no repr and it refuses to be pickled.

    Args:
        prg: "aes-128-ctr", "aes-256-ctr" or "chacha20".
        keys: m secret keys of 16, 32 or 32 bytes; m may be zero.
        signs: m times +1 (the mask is added) or -1 (it is subtracted).

    Raises:
        ValueError: an unknown generator, a key of the wrong length, another sign, unequal numbers.
    """

    __slots__ = ("_added", "_schedules", "prg")

    def __init__(self, prg: Prg, keys: Sequence[bytes], signs: Sequence[int]) -> None:
        if len(keys) != len(signs):
            raise ValueError(f"{len(keys)} keys and {len(signs)} signs")
        if any(sign not in (1, -1) for sign in signs):
            raise ValueError("a sign is +1 or -1")
        self.prg: Prg = prg
        in_order = [
            key for wanted in (1, -1) for key, sign in zip(keys, signs, strict=True) if sign == wanted
        ]
        self._schedules = streams.schedules(prg, in_order)
        self._added = sum(sign == 1 for sign in signs)

    def __len__(self) -> int:
        return len(self._schedules)

    def __repr__(self) -> str:
        return f"MaskSet({self.prg!r}, {len(self)} masks)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("secret masks are not pickled")

    @property
    def prepared(self) -> tuple[NDArray[np.uint64], int]:
        """Secret: prepared keys, uint64 (m, 32), and how many of them, from the first, are added."""
        return self._schedules, self._added


def quantize_and_mask(
    x: Floats,
    out: Words,
    *,
    scale: float | None = None,
    limit: int | None = None,
    segments: Segments | None = None,
    masks: MaskSet,
    offset: int = 0,
    first: int | None = None,
    rounding: Stream | None = None,
    error: NDArray[np.float64] | None = None,
) -> Counts:
    """Write round(x * scale), limited, plus every mask over `out`, in one pass over the data.

    Args:
        x: float32 or float64 (k,), contiguous. Not changed.
        out: uint8, uint16 or uint32 (k,), contiguous and writable.
        scale: words per unit of x, finite; the weight of the silo is a factor of it.
        limit: largest magnitude of a word before masking, 1 to 2^(B-1) - 1.
        segments: in place of `scale` and `limit`, those of each tensor: see `quantize`.
        masks: the masks to add and subtract.
        offset: element of the masks that meets out[0].
        first: coordinate of x[0] in the whole vector, for segments and stochastic rounding; None means
            `offset`.
        rounding: the stream that decides stochastic rounding; None rounds to nearest even. Its cipher
            (AES or ChaCha20) is that of the masks.
        error: float64 (m, 2) on the host, m the number of segments (1 without). Row j grows by segment j's
            sum of (word - x * scale)^2 and sum of (x * scale)^2 over finite x, limited words as they are, in
            units of the ring: the root of their ratio is the relative L2 error of this encoding. The product
            is the one that is rounded, in float32 where x is and B is at most 16; sums are then right to
            1e-5, and products below 2^-70 may count as zero.

    Returns:
        How many values were clipped and how many were not finite. With `nonfinite` > 0 the words are
        masked and well defined, and not to be sent.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend, first = backend_of(x, out), offset if first is None else first
    parts = check_quantize(x, out, scale, limit, segments, first)
    if error is None:
        error = np.zeros((len(parts), 2))
    check_error(error, len(parts))
    check_masks(masks, offset, out)
    check_rounding(rounding, first, x.size)
    if rounding is not None and len(masks) and family(rounding.prg) != family(masks.prg):
        raise ValueError("stochastic rounding takes the cipher of the masks")
    return counts(backend.quantize_and_mask(x, out, parts, first, rounding, error, masks, offset))


def add_masks(words: Words, masks: MaskSet, *, offset: int = 0) -> None:
    """Add (or, by sign, subtract) every mask to `words` in place.

    Args:
        words: uint8, uint16 or uint32 (k,), contiguous and writable.
        masks: the masks; a set with the opposite signs takes them off again.
        offset: element of the masks that meets words[0].

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(words)
    ring_bits(words)
    check_vector("words", words, writable=True)
    check_masks(masks, offset, words)
    backend.add_masks(words, masks, offset)


def check_masks(masks: MaskSet | None, offset: int, words: Words) -> None:
    """Refuse a slice that the masks do not reach."""
    if masks is not None:
        size = words.dtype.itemsize
        check_span(masks.prg, size * offset, size * words.size)
