"""The steps that every vector cipher gives: keystream over words, masks onto words, rounded values masked.

A step is as many blocks as a cipher keeps in registers. `masks` and `rounded` run all streams over a step
before it goes (back) to memory, so a mask costs its own arithmetic and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from silofl_kernels.cpu.aes import SLOTS
from silofl_kernels.cpu.llvm_ir import I64, cgutils, lane_type, pointer, prefetch, splat
from silofl_kernels.cpu.rounding import OUTSIDE, Rounding

PREFETCH_BYTES = 8192  # how far ahead of the step memory is asked for


class Cipher(Protocol):
    """A block cipher in counter mode, as vector registers."""

    registers: int
    """Registers in one step."""
    vector: ir.VectorType
    """Type of a register."""

    def blocks(self, builder: Any, schedule: Any, counter: Any) -> list[Any]:
        """Emit the stream from block `counter` on, one value for each register, in the order of the bytes."""


def step_bytes(cipher: Cipher) -> int:
    """Bytes of stream in one step."""
    return cipher.registers * int(cipher.vector.count * cipher.vector.element.width) // 8


class VectorSteps(NamedTuple):
    """Intrinsics of one cipher; `words[index:]` is what they work on, `counter` the block that meets it."""

    fill: Any
    """(words, index, schedules, row, counter): overwrites a step with stream `row`."""
    masks: Any
    """(words, index, schedules, added, counter): adds the first `added` streams, subtracts the others."""
    rounded: dict[bool, Any]
    """(x, scale, limit, draws, at, words, index, schedules, added, counter, cursor, sums): x[index:] rounded,
    then `masks`. By whether rounding is stochastic, with draw `at` the first. `sums` grows by the squares
    that `Rounding.registers` tells of, the cursor's last number by how many values were out of bounds."""


def vector_steps(cipher: Cipher) -> VectorSteps:
    """The steps of `cipher`."""
    rounded = {noisy: _rounded(cipher, noisy=noisy) for noisy in (False, True)}
    return VectorSteps(_fill(cipher), _masks(cipher), rounded)


def _fill(cipher: Cipher) -> Any:
    @intrinsic
    def fill(typingctx: Any, words: Any, index: Any, schedules: Any, row: Any, counter: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            schedule = pointer(context, builder, sig.args[2], args[2], builder.mul(args[3], I64(SLOTS)))
            at = pointer(context, builder, sig.args[0], args[0], args[1])
            _store(builder, _places(builder, at, cipher), cipher.blocks(builder, schedule, args[4]))
            return context.get_dummy_value()

        return types.void(words, types.intp, schedules, types.intp, types.uint64), codegen

    return fill


def _masks(cipher: Cipher) -> Any:
    @intrinsic
    def masks(typingctx: Any, words: Any, index: Any, schedules: Any, added: Any, counter: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            at = pointer(context, builder, sig.args[0], args[0], args[1])
            places = _places(builder, at, cipher)
            keys = context.make_array(sig.args[2])(context, builder, args[2])
            initial = [builder.load(place) for place in places]
            for load in initial:
                load.align = load.type.element.width // 8
            totals = _add_streams(builder, initial, keys, args[3], _stream(cipher, builder, args[4]))
            _store(builder, places, totals)
            return context.get_dummy_value()

        return types.void(words, types.intp, schedules, types.intp, types.uint64), codegen

    return masks


def _rounded(cipher: Cipher, *, noisy: bool) -> Any:
    @intrinsic
    def rounded(
        typingctx: Any, x: Any, scale: Any, limit: Any, draws: Any, at: Any, words: Any, index: Any,
        schedules: Any, added: Any, counter: Any, cursor: Any, sums: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            source = pointer(context, builder, sig.args[0], args[0], args[6])
            chances = pointer(context, builder, sig.args[3], args[3], args[4]) if noisy else None
            target = pointer(context, builder, sig.args[5], args[5], args[6])
            places = _places(builder, target, cipher)
            prefetch(builder, source, PREFETCH_BYTES, len(places) * places[0].type.pointee.count, write=False)
            prefetch(builder, target, PREFETCH_BYTES, len(places) * places[0].type.pointee.count, write=True)
            emit = Rounding(builder, context.get_value_type(sig.args[1]), places[0].type.pointee)
            squares = pointer(context, builder, sig.args[11], args[11], I64(0))
            initial, outside = emit.registers(len(places), source, args[1], args[2], chances, squares)
            keys = context.make_array(sig.args[7])(context, builder, args[7])
            _count_up(builder, pointer(context, builder, sig.args[10], args[10], I64(OUTSIDE)), outside)
            totals = _add_streams(builder, initial, keys, args[8], _stream(cipher, builder, args[9]))
            _store(builder, places, totals)
            return context.get_dummy_value()

        ints, uint = types.intp, types.uint64
        return types.void(
            x, scale, limit, draws, ints, words, ints, schedules, ints, uint, cursor, sums
        ), codegen

    return rounded


def _count_up(builder: Any, place: Any, number: Any) -> None:
    """Add to a counter in memory: a register would keep all rounded values alive until the masks are done."""
    builder.store(builder.add(builder.load(place), number), place)


def _stream(cipher: Cipher, builder: Any, counter: Any) -> Callable[[Any], list[Any]]:
    return lambda schedule: cipher.blocks(builder, schedule, counter)


def _places(builder: Any, at: Any, cipher: Cipher) -> list[Any]:
    """Pointers to the registers of a step, in lanes of the words they point into."""
    first = builder.bitcast(at, lane_type(cipher.vector, at.type.pointee.width).as_pointer())
    return [builder.gep(first, [I64(number)]) for number in range(cipher.registers)]


def _store(builder: Any, places: list[Any], values: list[Any]) -> None:
    for place, value in zip(places, values, strict=True):
        kind = place.type.pointee
        builder.store(builder.bitcast(value, kind), place).align = kind.element.width // 8


def _add_streams(builder: Any, initial: list[Any], keys: Any, added: Any, blocks: Any) -> list[Any]:
    """`initial` plus the streams of the first `added` keys, minus those of the others, lane by lane.

    A difference t - s is the complement of (the complement of t) + s: one body serves both signs.
    """
    kind = initial[0].type
    totals = [cgutils.alloca_once(builder, kind) for _ in initial]
    for total, value in zip(totals, initial, strict=True):
        builder.store(value, total)
    count = builder.extract_value(keys.shape, 0)
    with cgutils.for_range(builder, I64(2), intp=I64) as phase:
        subtracts = builder.icmp_signed("!=", phase.index, I64(0))
        first, stop = builder.select(subtracts, added, I64(0)), builder.select(subtracts, count, added)
        with builder.if_then(builder.icmp_signed("<", first, stop)):
            turn = splat(builder, kind, builder.sext(subtracts, kind.element))
            _turn(builder, totals, turn)
            with cgutils.for_range(builder, stop, start=first, intp=I64) as loop:
                schedule = builder.gep(keys.data, [builder.mul(loop.index, I64(SLOTS))])
                for total, block in zip(totals, blocks(schedule), strict=True):
                    word = builder.bitcast(block, kind)
                    builder.store(builder.add(builder.load(total), word), total)
            _turn(builder, totals, turn)
    return [builder.load(total) for total in totals]


def _turn(builder: Any, totals: list[Any], turn: Any) -> None:
    for total in totals:
        builder.store(builder.xor(builder.load(total), turn), total)
