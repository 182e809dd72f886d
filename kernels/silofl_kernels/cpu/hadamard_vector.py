"""Steps of the Walsh-Hadamard transform in registers: sums and differences in the order of the definition.

As in `rounding.py`, vectors are written down for every processor; the loops that a compiler makes of arrays
first ask whether these overlap, which costs more than a step of so few values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from silofl_kernels.cpu import features
from silofl_kernels.cpu.llvm_ir import I32, I64, cgutils, pointer, splat

GROUP = 32
"""Neighbours that are turned in registers."""
_LANES = 16  # neighbours that go together in a step between coordinates further apart


@intrinsic
def _group_intrinsic(typingctx: Any, x: Any, at: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = pointer(context, builder, sig.args[0], args[0], args[1])
        value, apart = _load(builder, place, GROUP), 1
        kind = value.type
        while apart < GROUP:
            others = ir.Constant(ir.VectorType(I32, GROUP), [lane ^ apart for lane in range(GROUP)])
            other = builder.shuffle_vector(value, value, others)
            if apart < 8:  # in one register, or in few
                signs = [-1.0 if lane & apart else 1.0 for lane in range(GROUP)]
                value = builder.fadd(other, builder.fmul(value, ir.Constant(kind, signs)))
            else:
                chosen = [lane + GROUP * bool(lane & apart) for lane in range(GROUP)]
                pattern = ir.Constant(ir.VectorType(I32, GROUP), chosen)
                total, lost = builder.fadd(value, other), builder.fsub(other, value)
                value = builder.shuffle_vector(total, lost, pattern)
            apart *= 2
        _store(builder, value, place)
        return context.get_dummy_value()

    return types.void(x, types.intp), codegen


@intrinsic
def _twos_intrinsic(typingctx: Any, x: Any, start: Any, apart: Any) -> Any:
    return types.void(x, types.intp, types.intp), _step(2)


@intrinsic
def _fours_intrinsic(typingctx: Any, x: Any, start: Any, apart: Any) -> Any:
    return types.void(x, types.intp, types.intp), _step(4)


def _step(rows: int) -> Any:
    """Code for `rows` rows of `apart` neighbours, one after another: each column is turned."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first, apart = pointer(context, builder, sig.args[0], args[0], args[1]), args[2]
        with cgutils.for_range(builder, builder.udiv(apart, I64(_LANES)), intp=I64) as loop:
            column = builder.gep(first, [builder.mul(loop.index, I64(_LANES))])
            places = [builder.gep(column, [builder.mul(apart, I64(row))]) for row in range(rows)]
            values, half = [_load(builder, place, _LANES) for place in places], 1
            while half < rows:
                for row in [row for row in range(rows) if not row & half]:
                    a, b = values[row], values[row + half]
                    values[row], values[row + half] = builder.fadd(a, b), builder.fsub(a, b)
                half *= 2
            for value, place in zip(values, places, strict=True):
                _store(builder, value, place)
        return context.get_dummy_value()

    return codegen


@intrinsic
def _flip_intrinsic(typingctx: Any, x: Any, at: Any, scale: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = pointer(context, builder, sig.args[0], args[0], args[1])
        value, width = _load(builder, place, GROUP), sig.args[0].dtype.bitwidth
        words = ir.VectorType(ir.IntType(width), GROUP)
        drawn = builder.bitcast(
            pointer(context, builder, sig.args[3], args[3], args[1]),
            ir.VectorType(ir.IntType(8), GROUP).as_pointer(),
        )
        loaded = builder.load(drawn)
        loaded.align = 1
        sign = builder.shl(builder.zext(loaded, words), ir.Constant(words, [width - 1] * GROUP))
        product = builder.bitcast(builder.fmul(value, splat(builder, value.type, args[2])), words)
        _store(builder, builder.bitcast(builder.xor(product, sign), value.type), place)
        return context.get_dummy_value()

    return types.void(x, types.intp, x.dtype, bits), codegen


def _load(builder: Any, place: Any, lanes: int) -> ir.Value:
    value = builder.load(builder.bitcast(place, ir.VectorType(place.type.pointee, lanes).as_pointer()))
    value.align = 4
    return value


def _store(builder: Any, value: Any, place: Any) -> None:
    builder.store(value, builder.bitcast(place, value.type.as_pointer())).align = 4


def _step_in_python(x: Any, start: int, apart: int, rows: int) -> None:
    part, half = x[start : start + rows * apart].reshape(rows, apart), 1
    while half < rows:
        for row in [row for row in range(rows) if not row & half]:
            a, b = part[row].copy(), part[row + half].copy()
            part[row], part[row + half] = a + b, a - b
        half *= 2


def _flip_in_python(x: Any, at: int, scale: Any, bits: Any) -> None:
    here = slice(at, at + GROUP)
    x[here] *= np.where(bits[here] & 1, -scale, scale).astype(x.dtype)


_python = features.without_jit()
turn_group: Any = (lambda x, at: _step_in_python(x, at, 1, GROUP)) if _python else _group_intrinsic
"""Helper (x, at): GROUP neighbours from x[at] on."""
turn_twos: Any = (lambda x, start, apart: _step_in_python(x, start, apart, 2)) if _python else _twos_intrinsic
"""Helper (x, start, apart): two rows of `apart` values from x[start] on; 16 divides `apart`."""
turn_fours: Any = (
    (lambda x, start, apart: _step_in_python(x, start, apart, 4)) if _python else _fours_intrinsic
)
"""The same for four rows."""
flip_group: Any = _flip_in_python if _python else _flip_intrinsic
"""Helper (x, at, scale, bits): GROUP values times `scale`, and times -1 where bit 0 of their bits is set."""
