"""Order statistics on the CPU: tiles of coordinates go through a sorting network, all lanes at once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels.checks import Floats, Rows, dtype_name
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.rows import borrow, part, row_addresses

_LANES = 128  # coordinates that are sorted at once: 10 rows of float64 stay in the first-level cache


def sorted_mean(rows: Rows, out: Floats, first: int, last: int) -> None:
    """Write the mean of values `first` to `last` - 1 of each coordinate, in ascending order, over `out`."""
    exchanges = network(len(rows), first, last)
    _sorted_mean_kernel(dtype_name(out.dtype))(row_addresses(rows), exchanges, first, last, out)


def mean_around(rows: Rows, reference: Floats, out: Floats, count: int) -> None:
    """See `silofl_kernels.mean_around`."""
    exchanges = network(len(rows), 0, len(rows))
    _mean_around_kernel(dtype_name(out.dtype))(row_addresses(rows), exchanges, reference, count, out)


@functools.cache
def network(count: int, first: int, last: int) -> NDArray[np.int64]:
    """Exchanges that sort `count` values as far as places `first` to `last` - 1 ask for it, flat (2 m,).

    Batcher's merge exchange (Knuth, TAOCP 3, algorithm 5.2.2M), without exchanges that reach no such place.
    """
    wanted, kept = set(range(first, last)), []
    for low, high in reversed(list(_merge_exchange(count))):
        if low in wanted or high in wanted:
            wanted |= {low, high}
            kept += [high, low]
    return np.array(kept[::-1], np.int64)


def _merge_exchange(count: int) -> Iterator[tuple[int, int]]:
    top = 1 << max(count - 1, 0).bit_length() >> 1
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            yield from ((i, i + d) for i in range(count - d) if i & p == r)
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1


def _sort_tile(addresses: Any, start: Any, size: Any, exchanges: Any, tile: Any) -> None:
    for row in range(addresses.size):
        values, lanes = (
            part(addresses, row, start, size, tile),
            borrow(tile, row * _LANES, row * _LANES + size),
        )
        for i in range(size):
            lanes[i] = values[i]
    for k in range(0, exchanges.size, 2):
        low = borrow(tile, exchanges[k] * _LANES, exchanges[k] * _LANES + _LANES)
        high = borrow(tile, exchanges[k + 1] * _LANES, exchanges[k + 1] * _LANES + _LANES)
        for i in range(_LANES):
            x, y = low[i], high[i]
            low[i] = x if x < y else y
            high[i] = y if x < y else x


@functools.cache
def _sorted_mean_kernel(dtype: str) -> Kernel:
    sort_tile = device(_sort_tile, dtype)

    def mean_of_sorted(addresses: Any, exchanges: Any, first: Any, last: Any, out: Any) -> None:
        tile, sums = np.zeros(addresses.size * _LANES, out.dtype), np.empty(_LANES, np.float64)
        for start in range(0, out.size, _LANES):
            size = min(_LANES, out.size - start)
            sort_tile(addresses, start, size, exchanges, tile)
            for i in range(_LANES):
                sums[i] = 0.0
            for row in range(first, last):
                lanes = borrow(tile, row * _LANES, row * _LANES + _LANES)
                for i in range(_LANES):
                    sums[i] += np.float64(lanes[i])
            means, count = borrow(out, start, start + size), np.float64(last - first)
            for i in range(size):
                means[i] = sums[i] / count

    return kernel(
        mean_of_sorted, dtype, array("uint64", readonly=True), array("int64", readonly=True), types.int64,
        types.int64, array(dtype),
    )  # fmt: skip


@functools.cache
def _mean_around_kernel(dtype: str) -> Kernel:
    """Of sorted values the nearest lie side by side: a window goes up while what it takes up is nearer."""
    sort_tile = device(_sort_tile, dtype)

    def mean_of_nearest(addresses: Any, exchanges: Any, reference: Any, count: Any, out: Any) -> None:
        tile, sums = np.zeros(addresses.size * _LANES, out.dtype), np.empty(_LANES, np.float64)
        near, best = np.zeros(_LANES, np.float64), np.empty(_LANES, np.float64)
        for start in range(0, out.size, _LANES):
            size = min(_LANES, out.size - start)
            sort_tile(addresses, start, size, exchanges, tile)
            for i in range(size):
                near[i] = reference[start + i]
            for row in range(addresses.size - count + 1):
                for i in range(_LANES):
                    sums[i] = 0.0
                for other in range(row, row + count):
                    lanes = borrow(tile, other * _LANES, other * _LANES + _LANES)
                    for i in range(_LANES):
                        sums[i] += np.float64(lanes[i])
                if row == 0:
                    for i in range(_LANES):
                        best[i] = sums[i]
                    continue
                left = borrow(tile, (row - 1) * _LANES, row * _LANES)
                taken = borrow(tile, (row + count - 1) * _LANES, (row + count) * _LANES)
                for i in range(_LANES):
                    nearer = np.float64(taken[i]) - near[i] < near[i] - np.float64(left[i])
                    best[i] = sums[i] if nearer else best[i]
            means = borrow(out, start, start + size)
            for i in range(size):
                means[i] = best[i] / np.float64(count)

    return kernel(
        mean_of_nearest, dtype, array("uint64", readonly=True), array("int64", readonly=True),
        array(dtype, readonly=True), types.int64, array(dtype),
    )  # fmt: skip
