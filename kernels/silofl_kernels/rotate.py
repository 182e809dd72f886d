"""Random rotations: signs from a public stream, then the Walsh-Hadamard transform, in place.

They spread a vector's norm over all coordinates, so that few of them leave the range of a small ring
(Kairouz, Liu and Steinke 2021, section 4; Suresh et al. 2017, section 3).

A window of n coordinates, a power of two, becomes H D x / sqrt(n): D holds signs, H is Sylvester's matrix.
Where n does not divide the length, the last window overlaps the one before it and is turned after it: no
padding, each step orthogonal, and no coordinate left out, whatever the length. No step adds in an order that
depends on the processor: the bits are the same everywhere.
"""

from __future__ import annotations

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import Floats, check_floats
from silofl_kernels.prg import check_span
from silofl_kernels.streams import Stream


def rotate(x: Floats, stream: Stream, *, block: int | None = None) -> None:
    """Rotate `x` in place; its Euclidean norm stays, to rounding. A NaN or infinity spoils its windows.

    Args:
        x: float32 or float64 (k,), contiguous and writable.
        stream: decides the signs; all who add rotated vectors up use the same, and it may be public. Sign i
            of window w, of n coordinates, is bit 0 of byte w n + i.
        block: the largest window, a power of two; None for the largest that x has room for, so that each
            coordinate is spread over more than half of x.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend_of(x).rotate(x, stream, _window(x, stream, block))


def unrotate(x: Floats, stream: Stream, *, block: int | None = None) -> None:
    """Undo `rotate` with the same stream and block, in place, to rounding.

    Args:
        x: float32 or float64 (k,), contiguous and writable.
        stream: the stream of `rotate`.
        block: the block of `rotate`.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend_of(x).unrotate(x, stream, _window(x, stream, block))


def _window(x: Floats, stream: Stream, block: int | None) -> int:
    """Length of a window: a power of two, 0 for an empty vector."""
    check_floats("x", x, writable=True)
    if block is not None and (block < 1 or block & (block - 1)):
        raise ValueError(f"a block is a power of two, not {block}")
    room = x.size if block is None else min(block, x.size)
    window = 1 << (room.bit_length() - 1) if room else 0
    check_span(stream.prg, 0, x.size + window)
    return window
