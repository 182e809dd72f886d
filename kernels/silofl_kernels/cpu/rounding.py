"""The arithmetic of quantization: for a register of words at a time, and the same for one value.

Emitted as vectors for every processor (LLVM splits them to the registers there are): left to itself the
compiler makes several times as many instructions of the limit, the check and the narrowing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from silofl_kernels.cpu import features
from silofl_kernels.cpu.jit import Kernel, device
from silofl_kernels.cpu.llvm_ir import I32, I64, intrinsic_call, pointer, splat

LANES = 32
"""Values rounded at a time where no cipher sets the pace."""

CURSOR = 4
"""int64 numbers that say where a tile's work is: its segment, where the run in it begins and stops, and how
many values were out of bounds."""
SEGMENT, BEGIN, STOP, OUTSIDE = range(CURSOR)

SUM_LANES = 16
"""Room for each of two sums of squares: lanes of the widest register."""


def make_round_lanes(*, noisy: bool, measured: bool) -> Any:
    """Intrinsic `lanes(x, index, scale, limit, draws, out, sums)`: LANES values from `index` on, over `out`.

    Returns how many were beyond `limit` or not finite. `scale`, `limit` and `sums` have the type of the
    product; where `measured`, `sums` (2 * SUM_LANES,) grows by the squares that `Rounding` tells of.
    """

    @intrinsic
    def lanes(
        typingctx: Any, x: Any, index: Any, scale: Any, limit: Any, draws: Any, out: Any, sums: Any
    ) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> ir.Value:
            word = ir.VectorType(ir.IntType(sig.args[5].dtype.bitwidth), LANES)
            source = pointer(context, builder, sig.args[0], args[0], args[1])
            chances = pointer(context, builder, sig.args[4], args[4], args[1]) if noisy else None
            emit = Rounding(builder, context.get_value_type(sig.args[2]), word)
            squares = pointer(context, builder, sig.args[6], args[6], I64(0)) if measured else None
            (words,), outside = emit.registers(1, source, args[2], args[3], chances, squares)
            place = builder.bitcast(
                pointer(context, builder, sig.args[5], args[5], args[1]), word.as_pointer()
            )
            builder.store(words, place).align = word.element.width // 8
            return outside

        return types.int64(x, types.intp, scale, limit, draws, out, sums), codegen

    return lanes


class Rounding:
    """Emits x * scale, rounded and limited, as registers of `word`; the product has type `real`."""

    def __init__(self, builder: Any, real: Any, word: ir.VectorType) -> None:
        self.builder, self.word, self.count = builder, word, word.count
        self.vector = ir.VectorType(real, self.count)
        self.whole = ir.VectorType(I32, self.count)
        self.single = isinstance(real, ir.FloatType)
        width = features.register_bytes() // (4 if self.single else 8)
        self.narrow = ir.VectorType(real, min(width, self.count))  # what sums of squares are kept in
        self.suffix = f"v{self.count}f{32 if self.single else 64}"

    def registers(
        self, number: int, source: Any, scale: Any, limit: Any, draws: Any | None, sums: Any | None
    ) -> tuple[list[ir.Value], ir.Value]:
        """`number` registers of words from the values at `source`, and how many were out of bounds.

        `draws` points to 32 random bits for each value (stochastic rounding) or is None (to nearest). `sums`
        points to 2 * SUM_LANES numbers, or is None: lanes of the first half grow by (word - product)^2, of
        the second by product^2.
        """
        scales, limits = (splat(self.builder, self.vector, value) for value in (scale, limit))
        words, outside, squares = [], I64(0), None
        for register in range(number):
            offset = I64(register * self.count)
            product = self.builder.fmul(self._load(self.builder.gep(source, [offset])), scales)
            if draws is None:
                value = self._call("rint", product)
            else:
                value = self._stochastic(product, self.builder.gep(draws, [offset]))
            outside = self.builder.add(outside, self._outside(value, limits))
            kept = self._limited(value, limits)
            words.append(self._word(kept))
            if sums is not None:
                squares = self._squares(squares, kept, product)
        if squares is not None:
            self._add_to(sums, squares)
        return words, outside

    def _squares(self, before: Any, kept: Any, product: Any) -> tuple[ir.Value, ir.Value]:
        """Sums of squares, lane by lane, of this step alone: only one addition waits for the step before."""
        lost, there = before or (None, None)
        for part in range(0, self.count, self.narrow.count):
            lost = self._square(lost, self._part(self.builder.fsub(kept, product), part))
            there = self._square(there, self._part(product, part))
        return lost, there

    def _square(self, total: Any, term: Any) -> ir.Value:
        if total is None:
            return self.builder.fmul(term, term)
        name = f"llvm.fmuladd.v{self.narrow.count}f{32 if self.single else 64}"  # one instruction if there is
        return intrinsic_call(self.builder, name, self.narrow, term, term, total)

    def _part(self, value: Any, start: int) -> ir.Value:
        """Lanes of `value` from `start` on: as many as one register holds."""
        lanes = list(range(start, start + self.narrow.count))
        pattern = ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
        return self.builder.shuffle_vector(value, value, pattern)

    def _add_to(self, sums: Any, squares: tuple[ir.Value, ir.Value]) -> None:
        for number, value in enumerate(squares):
            place = self.builder.bitcast(
                self.builder.gep(sums, [I64(number * SUM_LANES)]), self.narrow.as_pointer()
            )
            total = self.builder.load(place)
            total.align = 4 if self.single else 8
            self.builder.store(self.builder.fadd(total, value), place).align = total.align

    def _load(self, place: Any) -> ir.Value:
        """Values at `place`, widened where the product is wider than they are."""
        kind = ir.VectorType(place.type.pointee, self.count)
        values = self.builder.load(self.builder.bitcast(place, kind.as_pointer()))
        values.align = 4 if isinstance(kind.element, ir.FloatType) else 8
        return values if kind == self.vector else self.builder.fpext(values, self.vector)

    def _call(self, name: str, value: Any) -> ir.Value:
        return intrinsic_call(self.builder, f"llvm.{name}.{self.suffix}", self.vector, value)

    def _constant(self, value: float) -> ir.Value:
        return ir.Constant(self.vector, [value] * self.count)

    def _stochastic(self, product: Any, place: Any) -> ir.Value:
        """The floor, or one more where a uniform draw is below the fraction."""
        builder = self.builder
        draws = builder.load(builder.bitcast(place, self.whole.as_pointer()))
        draws.align = 4
        if self.single:
            draws = builder.lshr(draws, ir.Constant(self.whole, [8] * self.count))
            chance = builder.fmul(builder.sitofp(draws, self.vector), self._constant(2.0**-24))
        else:
            chance = builder.fmul(builder.uitofp(draws, self.vector), self._constant(2.0**-32))
        return self._up(product, chance)

    def _up(self, product: Any, chance: Any) -> ir.Value:
        """The floor, or one more where `chance` is below the fraction."""
        floor = self._call("floor", product)
        up = self.builder.fcmp_ordered("<", chance, self.builder.fsub(product, floor))
        return self.builder.select(up, self.builder.fadd(floor, self._constant(1.0)), floor)

    def _outside(self, value: Any, limit: Any) -> ir.Value:
        """Number of values that are beyond `limit` or not finite."""
        within = self.builder.fcmp_ordered("<=", self._call("fabs", value), limit)
        bits = ir.IntType(self.count)
        mask = self.builder.bitcast(self.builder.not_(within), bits)
        count = intrinsic_call(self.builder, f"llvm.ctpop.i{self.count}", bits, mask)
        return count if self.count == 64 else self.builder.zext(count, I64)

    def _limited(self, value: Any, limit: Any) -> ir.Value:
        """Values within the limit; NaN is no less than the limit and becomes it."""
        builder, least = self.builder, self.builder.fneg(limit)
        below = builder.select(builder.fcmp_ordered("<", value, limit), value, limit)
        return builder.select(builder.fcmp_ordered(">", below, least), below, least)

    def _word(self, kept: Any) -> ir.Value:
        """Limited values as integers of the ring."""
        integers = self.builder.fptosi(kept, self.whole)
        return integers if self.word == self.whole else self.builder.trunc(integers, self.word)


def make_round_one(*, noisy: bool, single: bool) -> Kernel:
    """Helper (product, draw) -> rounded value: the arithmetic of `make_round_lanes` on one value."""
    if not noisy:
        return _nearest_one
    return _single_one if single else _double_one


def _nearest(product: Any, draw: Any) -> Any:
    return np.rint(product)


def _stochastic_single(product: Any, draw: Any) -> Any:
    floor = np.floor(product)
    chance = np.float32(np.int32(draw >> np.uint32(8))) * np.float32(2.0**-24)
    return floor + np.float32(1) if chance < product - floor else floor


def _stochastic_double(product: Any, draw: Any) -> Any:
    floor = np.floor(product)
    return floor + 1.0 if np.float64(draw) * 2.0**-32 < product - floor else floor


_nearest_one, _single_one, _double_one = (
    device(function, "one") for function in (_nearest, _stochastic_single, _stochastic_double)
)
