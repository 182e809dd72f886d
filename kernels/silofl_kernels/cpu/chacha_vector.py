"""ChaCha20 with one block in each lane of a vector register.

RFC 8439 section 2.3. The sixteen state words are sixteen registers; after the rounds the lanes are
transposed, so that the bytes lie in the order of the standard.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from silofl_kernels.cpu.llvm_ir import I32, I64, cgutils, intrinsic_call, splat

COLUMNS = [(c, 4 + c, 8 + c, 12 + c) for c in range(4)]
DIAGONALS = [(c, 4 + (c + 1) % 4, 8 + (c + 2) % 4, 12 + (c + 3) % 4) for c in range(4)]


class ChachaVector:
    """`vector.Cipher` with `lanes` blocks side by side."""

    registers = 16

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.vector = ir.VectorType(I32, lanes)

    def blocks(self, builder: Any, schedule: Any, counter: Any) -> list[Any]:
        """Blocks `counter` to `counter + lanes - 1`, as registers in the order of their bytes."""
        return _blocks(builder, schedule, counter, self.lanes)


def _blocks(builder: Any, schedule: Any, counter: Any, lanes: int) -> list[Any]:
    """`lanes` blocks from block `counter` on, as registers in the order of their bytes."""
    state = builder.bitcast(schedule, I32.as_pointer())
    vector = ir.VectorType(I32, lanes)
    start = [splat(builder, vector, builder.load(builder.gep(state, [I64(word)]))) for word in range(16)]
    numbers = ir.Constant(vector, list(range(lanes)))
    start[12] = builder.add(splat(builder, vector, builder.trunc(counter, I32)), numbers)
    places = [cgutils.alloca_once(builder, vector) for _ in range(16)]
    for place, word in zip(places, start, strict=True):
        builder.store(word, place)
    with cgutils.for_range(builder, I64(10), intp=I64):
        words = [builder.load(place) for place in places]
        for quarter in COLUMNS + DIAGONALS:
            _quarter_round(builder, words, *quarter)
        for place, word in zip(places, words, strict=True):
            builder.store(word, place)
    words = [builder.add(builder.load(place), first) for place, first in zip(places, start, strict=True)]
    groups = [_transpose(builder, words[g : g + lanes]) for g in range(0, 16, lanes)]
    return [register for block in zip(*groups, strict=True) for register in block]


def _quarter_round(builder: Any, x: list[Any], a: int, b: int, c: int, d: int) -> None:
    for total, addend, turned, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        x[total] = builder.add(x[total], x[addend])
        x[turned] = _rotate(builder, builder.xor(x[turned], x[total]), bits)


def _rotate(builder: Any, value: Any, bits: int) -> Any:
    count = ir.Constant(value.type, [bits] * value.type.count)
    return intrinsic_call(builder, f"llvm.fshl.v{value.type.count}i32", value.type, value, value, count)


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """Square transpose: at each step blocks of `half` lanes change places across the diagonal."""
    count = len(rows)
    half = 1
    while half < count:
        low = [lane if not lane & half else lane - half + count for lane in range(count)]
        high = [lane + half if not lane & half else lane + count for lane in range(count)]
        new = list(rows)
        for first in range(count):
            if not first & half:
                pair = rows[first], rows[first + half]
                new[first], new[first + half] = (_shuffle(builder, *pair, lanes) for lanes in (low, high))
        rows, half = new, 2 * half
    return rows


def _shuffle(builder: Any, left: Any, right: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))
