"""Squared distances of rows on the CPU, a tile of all rows in the first-level cache at a time."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from silofl_kernels.checks import Rows, dtype_name
from silofl_kernels.cpu import features
from silofl_kernels.cpu.jit import Kernel, array, kernel
from silofl_kernels.cpu.llvm_ir import I64, cgutils, pointer
from silofl_kernels.cpu.rows import borrow, part, row_addresses

_TILE = 256  # coordinates of a tile
_LANES = 16  # sums that a pair has side by side in vector registers, on every processor as many
_PAIRS = 4  # pairs that one row is in at once, so that each of its values is loaded once for all of them


def squared_distances(rows: Rows, out: NDArray[np.float64]) -> None:
    """Write them over `out` (n, n), contiguous; see `silofl_kernels.squared_distances`."""
    _distance_kernel(dtype_name(rows[0].dtype))(row_addresses(rows), rows[0], out.reshape(-1))


@intrinsic
def _add_squares_intrinsic(typingctx: Any, tile: Any, row: Any, other: Any, sums: Any, at: Any) -> Any:
    """Vectors are written down: a compiler may not change the order of additions, and so makes none."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.DoubleType(), _LANES)
        rows = [builder.add(args[2], I64(k)) for k in range(_PAIRS)]
        left, *right = (
            pointer(context, builder, sig.args[0], args[0], builder.mul(one, I64(_TILE)))
            for one in (args[1], *rows)
        )
        target = pointer(context, builder, sig.args[3], args[3], args[4])
        places = [builder.gep(target, [I64(k * _LANES)]) for k in range(_PAIRS)]
        totals = [cgutils.alloca_once(builder, kind) for _ in places]
        for place, total in zip(places, totals, strict=True):
            builder.store(_load(builder, place, kind), total)
        with cgutils.for_range(builder, I64(_TILE // _LANES), intp=I64) as loop:
            step = builder.mul(loop.index, I64(_LANES))
            mine = _load(builder, builder.gep(left, [step]), kind)
            for total, one in zip(totals, right, strict=True):
                apart = builder.fsub(mine, _load(builder, builder.gep(one, [step]), kind))
                builder.store(builder.fadd(builder.load(total), builder.fmul(apart, apart)), total)
        for place, total in zip(places, totals, strict=True):
            into = builder.bitcast(place, kind.as_pointer())
            builder.store(builder.load(total), into).align = 8
        return context.get_dummy_value()

    return types.void(tile, types.intp, types.intp, sums, types.intp), codegen


def _load(builder: Any, place: Any, kind: ir.VectorType) -> Any:
    value = builder.load(builder.bitcast(place, kind.as_pointer()))
    value.align = 8
    return value


def _add_squares_in_python(tile: Any, row: int, other: int, sums: Any, at: int) -> None:
    rows, lanes = tile.reshape(-1, _TILE), sums[at : at + _PAIRS * _LANES].reshape(_PAIRS, _LANES)
    apart = (rows[row] - rows[other : other + _PAIRS]).reshape(_PAIRS, -1, _LANES)
    for step in range(_TILE // _LANES):
        lanes += apart[:, step] ** 2


_add_squares: Any = _add_squares_in_python if features.without_jit() else _add_squares_intrinsic


@functools.cache
def _distance_kernel(dtype: str) -> Kernel:
    def distances_of_pairs(addresses: Any, like: Any, out: Any) -> None:
        count = addresses.size
        wide = (count + _PAIRS - 1) // _PAIRS * _PAIRS  # what is beyond the rows is not read
        tile, sums = np.zeros(wide * _TILE, np.float64), np.zeros(count * wide * _LANES, np.float64)
        for start in range(0, like.size, _TILE):
            size = min(_TILE, like.size - start)
            for row in range(count):
                values = part(addresses, row, start, size, like)
                into = borrow(tile, row * _TILE, row * _TILE + _TILE)
                for i in range(size):
                    into[i] = np.float64(values[i])
                for i in range(size, _TILE):
                    into[i] = 0.0
            for row in range(count):
                for other in range(0, row + 1, _PAIRS):
                    _add_squares(tile, row, other, sums, (row * wide + other) * _LANES)
        for row in range(count):
            for other in range(row + 1):
                total, at = 0.0, (row * wide + other) * _LANES
                for lane in range(_LANES):
                    total += sums[at + lane]
                out[row * count + other] = total
                out[other * count + row] = total

    return kernel(
        distances_of_pairs, dtype, array("uint64", readonly=True), array(dtype, readonly=True),
        array("float64"),
    )  # fmt: skip
