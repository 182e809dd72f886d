"""Additive masks in the ring: words plus or minus secret streams, put on and taken off in one pass.

Element i of a mask is the B-bit word at byte i * B / 8 of its stream (little-endian), so a slice of a mask
can be made alone. Words stay in registers, or at most in the first-level cache, while every mask goes onto
them; a mask itself never reaches memory.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels import features, streams
from silofl_kernels.jit import Kernel, array, device, kernel
from silofl_kernels.quantize import (
    TILE,
    Counts,
    Floats,
    Rounder,
    check_quantize,
    check_vector,
    finish,
    make_rounder,
    quantize,
    rounding_stream,
)
from silofl_kernels.ring import Words, ring_bits
from silofl_kernels.rows import borrow
from silofl_kernels.streams import WORK_WORDS, Prg, Stream


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
    scale: float,
    limit: int,
    masks: MaskSet,
    offset: int = 0,
    rounding: Stream | None = None,
) -> Counts:
    """Write round(x * scale), limited, plus every mask over `out`, in one pass over the data.

    Args:
        x: float32 or float64 (k,), contiguous. Not changed.
        out: uint8, uint16 or uint32 (k,), contiguous and writable.
        scale: words per unit of x, finite; the weight of the silo is a factor of it.
        limit: largest magnitude of a word before masking, 1 to 2^(B-1) - 1.
        masks: the masks to add and subtract.
        offset: coordinate of x[0] in the whole vector, the element at which masks and rounding begin.
        rounding: the stream that decides stochastic rounding; None rounds to nearest even. Its cipher
            (AES or ChaCha20) is that of the masks.

    Returns:
        How many values were clipped and how many were not finite. With `nonfinite` > 0 the words are
        masked and well defined, and not to be sent.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    if not len(masks):
        return quantize(x, out, scale=scale, limit=limit, offset=offset, rounding=rounding)
    check_quantize(x, out, scale, limit)
    bits, kind = ring_bits(out), check_masks(masks, offset, out)
    noise, noise_kind = rounding_stream(rounding, offset, x.size)
    if noise_kind not in (None, kind):
        raise ValueError("stochastic rounding takes the cipher of the masks")
    code = _masked_kernel(x.dtype.name, bits, kind, noise_kind is not None, features.path(kind))
    return finish(code(x, out, scale, limit, offset, noise, *masks.prepared))


def add_masks(words: Words, masks: MaskSet, *, offset: int = 0) -> None:
    """Add (or, by sign, subtract) every mask to `words` in place.

    Args:
        words: uint8, uint16 or uint32 (k,), contiguous and writable.
        masks: the masks; a set with the opposite signs takes them off again.
        offset: element of the masks that meets words[0].

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    bits = ring_bits(words)
    check_vector("words", words, writable=True)
    kind = check_masks(masks, offset, words)
    _add_kernel(bits, kind, features.path(kind))(words, offset, *masks.prepared)


def check_masks(masks: MaskSet, offset: int, words: Words) -> features.Family:
    """Refuse a slice that the masks do not reach; the cipher of the masks."""
    size = words.dtype.itemsize
    streams.check_span(masks.prg, size * offset, size * words.size)
    return streams.family(masks.prg)


def mask_types() -> tuple[types.Type, types.Type]:
    """numba's types of what `MaskSet.prepared` holds."""
    return array("uint64", 2, readonly=True), types.int64


@functools.cache
def _masked_kernel(x: str, bits: int, kind: features.Family, noisy: bool, path: str) -> Kernel:
    """Kernel (x, out, scale, limit, first, noise, schedules, added) -> (outside, nonfinite)."""
    rounder = make_rounder(x, bits, kind if noisy else None)
    mask_tile, label = _mask_tile(rounder, streams.steps(kind, bits), noisy=noisy)
    draw, count = rounder.draw, rounder.nonfinite

    def quantize_masked(
        x: Any, out: Any, scale: Any, limit: Any, first: Any, noise: Any, schedules: Any, added: Any
    ) -> Any:
        outside, nonfinite, start = 0, 0, 0
        draws, work, met = np.empty(TILE, np.uint32), np.empty(WORK_WORDS, np.uint64), np.zeros(1, np.int64)
        while start < x.size:
            stop = min(x.size, start + TILE - (first + start) % TILE)
            values, tile = borrow(x, start, stop), borrow(out, start, stop)
            draw(draws, values.size, first + start, noise, work)
            mask_tile(values, tile, scale, limit, draws, first + start, schedules, added, work, met)
            if met[0]:
                outside += met[0]
                nonfinite += count(values)
            start = stop
        return outside, nonfinite

    return kernel(quantize_masked, label, *rounder.parameters, *mask_types())


def _mask_tile(rounder: Rounder, code: streams.Steps, *, noisy: bool) -> tuple[Kernel, str]:
    """Helper (x, out, scale, limit, draws, first, schedules, added, work, outside): one tile."""
    label = f"{rounder.label}_{code.name}"
    span, onto = rounder.span, code.masks

    def after(
        x: Any,
        out: Any,
        scale: Any,
        limit: Any,
        draws: Any,
        first: Any,
        schedules: Any,
        added: Any, work: Any, outside: Any,
    ) -> None:  # fmt: skip
        outside[0] = span(x, out, 0, x.size, scale, limit, draws)
        onto(out, first, schedules, added, work)

    if code.vector is None:
        return device(after, label), label
    step, part, per_step, blocks = code.vector.rounded[noisy], code.part, code.words, code.blocks

    def in_registers(
        x: Any,
        out: Any,
        scale: Any,
        limit: Any,
        draws: Any,
        first: Any,
        schedules: Any,
        added: Any, work: Any, outside: Any,
    ) -> None:  # fmt: skip
        at = 0
        outside[0] = 0
        while at < x.size:
            here = first + at
            stop = min(x.size, at + per_step - here % per_step)
            if stop - at == per_step:
                block = np.uint64(here // per_step * blocks)
                step(x, scale, limit, draws, at, out, at, schedules, added, block, outside)
            else:
                outside[0] += span(x, out, at, stop, scale, limit, draws)
                part(borrow(out, at, stop), here, schedules, added, work)
            at = stop

    return device(in_registers, label), label


@functools.cache
def _add_kernel(bits: int, kind: features.Family, path: str) -> Kernel:
    code = streams.steps(kind, bits)
    every_mask = code.masks

    def add_all(words: Any, first: Any, schedules: Any, added: Any) -> None:
        work = np.empty(WORK_WORDS, np.uint64)
        start = 0
        while start < words.size:
            stop = min(words.size, start + TILE - (first + start) % TILE)
            every_mask(borrow(words, start, stop), first + start, schedules, added, work)
            start = stop

    return kernel(add_all, code.name, array(f"uint{bits}"), types.int64, *mask_types())
