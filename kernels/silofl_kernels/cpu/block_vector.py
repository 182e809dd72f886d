"""The arithmetic of codes for blocks, a register or more of values at a time.

As in `rounding.py`, vectors are written down for every processor. Values are x + residual where there is a
residual, which then becomes what the codes lost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from silofl_kernels.cpu import features
from silofl_kernels.cpu.jit import Kernel
from silofl_kernels.cpu.llvm_ir import I32, I64, cgutils, intrinsic_call, pointer, prefetch, splat
from silofl_kernels.cpu.rounding import LANES, Rounding

AHEAD_BYTES = 4096  # how far ahead of the values that become codes memory is asked for
_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()
_FLOATS, _WORDS = ir.VectorType(_FLOAT, LANES), ir.VectorType(I32, LANES)
_MAGNITUDE = 0x7FFFFFFF


def make_encode(*, noisy: bool, fed: bool) -> Kernel:
    """`encode(x, residual, codes, draws, at, scale, step, limit, signs)`: LANES codes from index `at` on.

    `scale` is 1 / step (0 for a step of 0), `limit` the largest code, in float32; `signs` a bool.
    """
    if features.without_jit():
        return _encode_in_python(noisy=noisy, fed=fed)

    @intrinsic
    def encode(
        typingctx: Any, x: Any, residual: Any, codes: Any, draws: Any, at: Any, scale: Any, step: Any,
        limit: Any, signs: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            place = [pointer(context, builder, sig.args[i], args[i], args[4]) for i in range(4)]
            word = ir.VectorType(ir.IntType(sig.args[2].dtype.bitwidth), LANES)
            emit = _Codes(builder, _FLOAT, word)
            prefetch(builder, place[0], AHEAD_BYTES, LANES, write=False)
            values = _load(builder, place[0])
            if fed:
                prefetch(builder, place[1], AHEAD_BYTES, LANES, write=True)
                values = builder.fadd(values, _load(builder, place[1]))
            drawn = _load(builder, place[3], _WORDS) if noisy else None
            whole = emit.codes(values, args[5], args[7], drawn, args[8])
            _store(builder, emit.narrow_word(whole), place[2], word.element.width // 8)
            if fed:
                decoded = builder.fmul(builder.sitofp(whole, _FLOATS), splat(builder, _FLOATS, args[6]))
                _store(builder, builder.fsub(values, decoded), place[1], 4)
            return context.get_dummy_value()

        real = types.float32
        return types.void(x, residual, codes, draws, types.intp, real, real, real, types.boolean), codegen

    made: Kernel = encode
    return made


class _Codes(Rounding):
    """Emits codes as 32-bit integers."""

    def codes(self, values: Any, scale: Any, limit: Any, draws: Any | None, signs: Any) -> ir.Value:
        """Codes of `values`; `draws` are 32 random bits for each, or None to round to nearest."""
        builder = self.builder
        product = builder.fmul(values, splat(builder, self.vector, scale))
        if draws is None:
            value, least = self._call("rint", product), self._constant(0.0)
            below = builder.fcmp_ordered("<", values, least)
        else:
            bits = builder.lshr(draws, self._integers(8))
            chance = builder.fmul(builder.sitofp(bits, self.vector), self._constant(2.0**-24))
            value = self._up(product, chance)
            least = builder.fsub(builder.fadd(chance, chance), self._constant(1.0))
            below = builder.fcmp_unordered("<=", product, least)
        sign = builder.select(below, self._constant(-1.0), self._constant(1.0))
        kept = self._limited(value, splat(builder, self.vector, limit))
        return builder.fptosi(builder.select(signs, sign, kept), self.whole)

    def narrow_word(self, whole: Any) -> ir.Value:
        """Codes as wide as they are kept."""
        return self.builder.trunc(whole, self.word)

    def _integers(self, value: int) -> ir.Constant:
        return ir.Constant(self.whole, [value] * self.count)


def make_largest(*, fed: bool, means: bool) -> Kernel:
    """`largest(x, residual, total)`: the largest magnitude, by its bits: a NaN comes after infinity.

    Where `means`, total[0], a float64, grows by the sum of magnitudes, added in an order that is the same on
    every processor. There are whole multiples of LANES values.
    """
    if features.without_jit():
        return _largest_in_python(fed=fed, means=means)

    @intrinsic
    def largest(typingctx: Any, x: Any, residual: Any, total: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            first = [pointer(context, builder, sig.args[i], args[i], I64(0)) for i in range(3)]
            size = builder.extract_value(context.make_array(sig.args[0])(context, builder, args[0]).shape, 0)
            top = cgutils.alloca_once_value(builder, ir.Constant(_WORDS, [0] * LANES))
            doubles = ir.VectorType(_DOUBLE, LANES)
            sums = cgutils.alloca_once_value(builder, ir.Constant(doubles, [0.0] * LANES))
            with cgutils.for_range(builder, builder.udiv(size, I64(LANES)), intp=I64) as loop:
                at = builder.mul(loop.index, I64(LANES))
                values = _load(builder, builder.gep(first[0], [at]))
                if fed:
                    values = builder.fadd(values, _load(builder, builder.gep(first[1], [at])))
                words = builder.and_(
                    builder.bitcast(values, _WORDS), ir.Constant(_WORDS, [_MAGNITUDE] * LANES)
                )
                builder.store(_umax(builder, builder.load(top), words), top)
                if means:
                    wide = builder.fpext(builder.bitcast(words, _FLOATS), doubles)
                    builder.store(builder.fadd(builder.load(sums), wide), sums)
            if means:
                builder.store(
                    builder.fadd(builder.load(first[2]), _tree(builder, builder.load(sums))), first[2]
                )
            most = intrinsic_call(builder, f"llvm.vector.reduce.umax.v{LANES}i32", I32, builder.load(top))
            return builder.bitcast(most, _FLOAT)

        return types.float32(x, residual, total), codegen

    made: Kernel = largest
    return made


def _umax(builder: Any, left: Any, right: Any) -> ir.Value:
    return builder.select(builder.icmp_unsigned(">", left, right), left, right)


def _tree(builder: Any, value: Any) -> ir.Value:
    """Sum of all lanes, halves upon halves."""
    count = value.type.count
    while count > 1:
        count //= 2
        low, high = (
            ir.Constant(ir.VectorType(I32, count), list(range(start, start + count))) for start in (0, count)
        )
        value = builder.fadd(
            builder.shuffle_vector(value, value, low), builder.shuffle_vector(value, value, high)
        )
    return builder.extract_element(value, I32(0))


def _load(builder: Any, place: Any, kind: Any = _FLOATS) -> ir.Value:
    value = builder.load(builder.bitcast(place, kind.as_pointer()))
    value.align = 4
    return value


def _store(builder: Any, value: Any, place: Any, align: int) -> None:
    builder.store(value, builder.bitcast(place, value.type.as_pointer())).align = align


def _encode_in_python(*, noisy: bool, fed: bool) -> Kernel:
    def encode(
        x: Any, residual: Any, codes: Any, draws: Any, at: int, scale: Any, step: Any, limit: Any, signs: bool
    ) -> None:
        here = slice(at, at + LANES)
        values = x[here] + residual[here] if fed else x[here]
        product = values * scale
        chance = (draws[here] >> 8).astype(np.float32) * np.float32(2.0**-24)
        if signs:
            below = product <= chance * 2 - 1 if noisy else values < 0
            codes[here] = np.where(below, -1, 1)
        else:
            up = np.floor(product) + (chance < product - np.floor(product))
            codes[here] = np.clip(up if noisy else np.rint(product), -limit, limit)
        if fed:
            residual[here] = values - codes[here].astype(np.float32) * step

    return encode


def _largest_in_python(*, fed: bool, means: bool) -> Kernel:
    def largest(x: Any, residual: Any, total: Any) -> Any:
        values = np.abs(x + residual if fed else x)
        if means:
            lanes = values.astype(float).reshape(-1, LANES)
            sums = np.add.accumulate(lanes)[-1] if len(lanes) else np.zeros(LANES)
            while sums.size > 1:
                sums = sums[: sums.size // 2] + sums[sums.size // 2 :]
            total[0] += sums[0]
        return values.view(np.uint32).max(initial=0, keepdims=True).view(np.float32)[0]

    return largest
