"""Small pieces of LLVM code that the emitters share."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils as _cgutils

cgutils: Any = _cgutils  # numba's internals have no types
I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
LINE_BYTES = 64


def pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> ir.Value:
    """Pointer to element `index` of an array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def lane_type(register: Any, bits: int) -> ir.VectorType:
    """The vector type of a register's size with integer lanes of `bits`."""
    return ir.VectorType(ir.IntType(bits), register.count * register.element.width // bits)


def splat(builder: Any, vector: Any, value: Any) -> ir.Value:
    """`value` in every lane of a `vector`."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def intrinsic_call(builder: Any, name: str, result: Any, *values: Any) -> ir.Value:
    """Call of an LLVM intrinsic."""
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def prefetch(builder: Any, place: Any, ahead: int, elements: int, *, write: bool) -> None:
    """Ask for the cache lines of `elements` elements that lie `ahead` bytes after `place`."""
    element = place.type.pointee
    size = {ir.FloatType: 4, ir.DoubleType: 8}.get(type(element)) or element.width // 8
    first = builder.bitcast(place, ir.IntType(8).as_pointer())
    for offset in range(0, elements * size, LINE_BYTES):
        line = builder.gep(first, [I64(ahead + offset)])
        intrinsic_call(builder, "llvm.prefetch.p0", ir.VoidType(), line, I32(int(write)), I32(3), I32(1))
