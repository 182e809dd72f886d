"""Sums of rows on the CPU. Kernels take the addresses of the rows, so one compiled kernel serves every n."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels.checks import Floats, Rows, dtype_name
from silofl_kernels.cpu import features, streams
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.masking import mask_types
from silofl_kernels.cpu.quantize import dequantizer
from silofl_kernels.cpu.rows import borrow, part, row_addresses
from silofl_kernels.cpu.streams import WORK_WORDS
from silofl_kernels.prg import Family, family
from silofl_kernels.ring import Words, ring_bits

if TYPE_CHECKING:
    from silofl_kernels.masking import MaskSet

_TILE = 4096  # words of a sum that stay in the first-level cache while the rows pass by
_FLOAT_TILE = 512  # the same for sums in float64


def reduce_rows(rows: Rows, out: Words, masks: MaskSet | None, offset: int) -> None:
    """See `silofl_kernels.reduce_rows`."""
    kind, first, prepared = _masks(masks, offset)
    code = _reduce_kernel(ring_bits(out), kind, features.path(kind) if kind else "")
    code(row_addresses(rows), out, first, *prepared)


def reduce_rows_dequantize(
    rows: Rows,
    out: Floats,
    ends: NDArray[np.int64],
    steps: NDArray[np.float64],
    first: int,
    masks: MaskSet | None,
    offset: int,
) -> None:
    """See `silofl_kernels.reduce_rows_dequantize`."""
    kind, offset, prepared = _masks(masks, offset)
    bits, path = ring_bits(rows[0]), features.path(kind) if kind else ""
    code = _reduce_dequantize_kernel(bits, dtype_name(out.dtype), kind, path)
    code(row_addresses(rows), rows[0], ends, steps, first, out, offset, *prepared)


def reduce_rows_float(rows: Rows, out: Floats, weights: NDArray[np.float64]) -> None:
    """See `silofl_kernels.reduce_rows_float`."""
    _reduce_float_kernel(dtype_name(out.dtype))(row_addresses(rows), weights, out)


def scale_into(x: Floats, weight: float, out: Floats) -> None:
    """See `silofl_kernels.scale_into`."""
    _scale_kernel(dtype_name(x.dtype))(x, weight, out)


def _masks(masks: MaskSet | None, offset: int) -> tuple[Family | None, int, tuple[NDArray[np.uint64], int]]:
    """Cipher, first element and prepared keys; None and no keys without masks."""
    if masks is None or not len(masks):
        return None, 0, (np.zeros((0, 0), np.uint64), 0)
    return family(masks.prg), offset, masks.prepared


def _sum_tile(addresses: Any, start: Any, out: Any) -> None:
    words = part(addresses, 0, start, out.size, out)
    for i in range(out.size):
        out[i] = words[i]
    for row in range(1, addresses.size):
        words = part(addresses, row, start, out.size, out)
        for i in range(out.size):
            out[i] += words[i]


def _no_masks(words: Any, first: Any, schedules: Any, added: Any, work: Any) -> None:
    return


def _tile_codes(kind: Family | None, bits: int) -> tuple[str, Kernel, Kernel]:
    if kind is None:
        return f"{bits}_plain", device(_sum_tile, "rows"), device(_no_masks, "plain")
    code = streams.steps(kind, bits)
    return f"{bits}_{code.name}", device(_sum_tile, "rows"), code.masks


@functools.cache
def _reduce_kernel(bits: int, kind: Family | None, path: str) -> Kernel:
    label, sum_tile, every_mask = _tile_codes(kind, bits)

    def reduce_to_words(addresses: Any, out: Any, first: Any, schedules: Any, added: Any) -> None:
        work = np.empty(WORK_WORDS, np.uint64)
        start = 0
        while start < out.size:
            tile = borrow(out, start, min(out.size, start + _TILE - (first + start) % _TILE))
            sum_tile(addresses, start, tile)
            every_mask(tile, first + start, schedules, added, work)
            start += tile.size

    addresses = array("uint64", readonly=True)
    return kernel(reduce_to_words, label, addresses, array(f"uint{bits}"), types.int64, *mask_types())


@functools.cache
def _reduce_dequantize_kernel(bits: int, out: str, kind: Family | None, path: str) -> Kernel:
    label, sum_tile, every_mask = _tile_codes(kind, bits)
    scale_runs = dequantizer(bits, out)

    def reduce_to_floats(
        addresses: Any,
        like: Any,
        ends: Any,
        steps: Any,
        first: Any,
        out: Any,
        offset: Any,
        schedules: Any,
        added: Any,
    ) -> None:
        work, words = np.empty(WORK_WORDS, np.uint64), np.empty(_TILE, like.dtype)
        start, segment = 0, 0
        while start < out.size:
            floats = borrow(out, start, min(out.size, start + _TILE - (offset + start) % _TILE))
            tile = borrow(words, 0, floats.size)
            sum_tile(addresses, start, tile)
            every_mask(tile, offset + start, schedules, added, work)
            segment = scale_runs(tile, floats, ends, steps, segment, first + start)
            start += floats.size

    return kernel(
        reduce_to_floats, f"{label}_{out}", array("uint64", readonly=True),
        array(f"uint{bits}", readonly=True), array("int64", readonly=True), array("float64", readonly=True),
        types.int64, array(out), types.int64, *mask_types(),
    )  # fmt: skip


@functools.cache
def _reduce_float_kernel(dtype: str) -> Kernel:
    def reduce_floats(addresses: Any, weights: Any, out: Any) -> None:
        total = np.empty(_FLOAT_TILE, np.float64)
        for start in range(0, out.size, _FLOAT_TILE):
            tile = borrow(out, start, min(out.size, start + _FLOAT_TILE))
            sums = borrow(total, 0, tile.size)
            for i in range(tile.size):
                sums[i] = 0.0
            for row in range(weights.size):
                values, weight = part(addresses, row, start, tile.size, out), weights[row]
                for i in range(tile.size):
                    sums[i] += np.float64(values[i]) * weight
            for i in range(tile.size):
                tile[i] = sums[i]

    addresses, weights = array("uint64", readonly=True), array("float64", readonly=True)
    return kernel(reduce_floats, dtype, addresses, weights, array(dtype))


@functools.cache
def _scale_kernel(dtype: str) -> Kernel:
    def scale_vector(x: Any, weight: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = np.float64(x[i]) * weight

    return kernel(scale_vector, dtype, array(dtype, readonly=True), types.float64, array(dtype))
