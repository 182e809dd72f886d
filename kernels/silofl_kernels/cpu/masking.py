"""Masks on the CPU: words stay in registers, or at most in the first-level cache, while all masks go on."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from silofl_kernels.checks import Floats
from silofl_kernels.cpu import features, streams
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.quantize import TILE, Rounder, make_rounder, rounding_stream
from silofl_kernels.cpu.rows import borrow
from silofl_kernels.cpu.streams import WORK_WORDS
from silofl_kernels.prg import Family, family
from silofl_kernels.ring import Words, ring_bits

if TYPE_CHECKING:
    from silofl_kernels.masking import MaskSet
    from silofl_kernels.streams import Stream


def quantize_and_mask(
    x: Floats, out: Words, scale: float, limit: int, first: int, rounding: Stream | None, masks: MaskSet
) -> tuple[int, int]:
    """See `silofl_kernels.quantize_and_mask`; how many values were out of bounds, and how many not finite."""
    noise, noise_kind = rounding_stream(rounding)
    bits, kind = ring_bits(out), family(masks.prg)
    code = _masked_kernel(x.dtype.name, bits, kind, noise_kind is not None, features.path(kind))
    outside, nonfinite = code(x, out, scale, limit, first, noise, *masks.prepared)
    return outside, nonfinite


def add_masks(words: Words, masks: MaskSet, offset: int) -> None:
    """See `silofl_kernels.add_masks`."""
    kind = family(masks.prg)
    _add_kernel(ring_bits(words), kind, features.path(kind))(words, offset, *masks.prepared)


def mask_types() -> tuple[types.Type, types.Type]:
    """numba's types of what `MaskSet.prepared` holds."""
    return array("uint64", 2, readonly=True), types.int64


@functools.cache
def _masked_kernel(x: str, bits: int, kind: Family, noisy: bool, path: str) -> Kernel:
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
def _add_kernel(bits: int, kind: Family, path: str) -> Kernel:
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
