"""Pieces of memory inside kernels: a part of an array, or of a row that lies anywhere.

numba's own slices count references, which costs more than a small tile of work. What is borrowed here owns
nothing; the public function that called the kernel keeps the memory alive.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj as _arrayobj
from numpy.typing import NDArray

from silofl_kernels.checks import Rows
from silofl_kernels.cpu import features
from silofl_kernels.cpu.jit import Kernel, device

arrayobj: Any = _arrayobj  # numba's internals have no types


def row_addresses(rows: Rows) -> NDArray[np.uint64]:
    """Addresses of the rows, uint64 (n,); the caller keeps `rows` alive while they are used."""
    return np.array([row.__array_interface__["data"][0] for row in rows], np.uint64)


@intrinsic
def _borrow_intrinsic(typingctx: Any, source: Any, start: Any, stop: Any) -> Any:
    result = types.Array(source.dtype, 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> ir.Value:
        data = arrayobj.make_array(signature.args[0])(context, builder, args[0]).data
        return _array(context, builder, result, builder.gep(data, [args[1]]), builder.sub(args[2], args[1]))

    return result(source, types.intp, types.intp), codegen


@intrinsic
def _array_at_intrinsic(typingctx: Any, address: Any, size: Any, like: Any) -> Any:
    result = types.Array(like.dtype, 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> ir.Value:
        pointer = context.get_data_type(result.dtype).as_pointer()
        return _array(context, builder, result, builder.inttoptr(args[0], pointer), args[1])

    return result(address, types.intp, like), codegen


_array_at: Any = _array_at_intrinsic


def _array(context: Any, builder: Any, kind: Any, data: Any, size: Any) -> ir.Value:
    item = ir.Constant(ir.IntType(64), kind.dtype.bitwidth // 8)
    made = arrayobj.make_array(kind)(context, builder)
    arrayobj.populate_array(made, data, [size], [item], item, None)
    return made._getvalue()


def _part_code(addresses: Any, row: Any, start: Any, size: Any, like: Any) -> Any:
    return _array_at(addresses[row] + np.uint64(start * like.itemsize), size, like)


def _borrow_in_python(source: Any, start: Any, stop: Any) -> Any:
    return source[start:stop]


def _part_in_python(addresses: Any, row: Any, start: Any, size: Any, like: Any) -> Any:
    at = int(addresses[row]) + start * like.itemsize
    return np.frombuffer((ctypes.c_char * (size * like.itemsize)).from_address(at), like.dtype)


borrow: Any = _borrow_in_python if features.without_jit() else _borrow_intrinsic
"""Helper (source, start, stop): source[start:stop] of a vector inside a kernel, unchecked."""

part: Kernel = _part_in_python if features.without_jit() else device(_part_code, "rows")
"""Helper (addresses, row, start, size, like): a piece of a row inside a kernel, in `like`'s dtype."""
