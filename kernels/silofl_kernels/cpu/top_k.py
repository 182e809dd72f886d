"""Selection of the largest magnitudes on the CPU: see `silofl_kernels.top_k`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from silofl_kernels.checks import Floats, dtype_name
from silofl_kernels.cpu import features
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.llvm_ir import I1, I32, intrinsic_call, pointer, splat
from silofl_kernels.cpu.rows import borrow

if TYPE_CHECKING:
    from silofl_kernels.sparse import Indices

_BITS = 11  # of a magnitude that are counted in one pass: the exponent of a float32 and three more
_BINS = 1 << _BITS
_SPAN = 1 << 30  # values whose counts fit 32 bits
_LANES = 32


def top_k(x: Floats, indices: Indices, values: Floats) -> None:
    """See `silofl_kernels.top_k`."""
    if indices.size:
        words = x.view(np.uint32 if x.dtype == np.float32 else np.uint64)
        bound = np.zeros(1, words.dtype)
        code = _top_kernel(dtype_name(x.dtype), dtype_name(indices.dtype))
        code(x, words, bound, bound.view(x.dtype), indices, values)


@functools.cache
def _top_kernel(dtype: str, index: str) -> Kernel:
    """Kernel (x, words, bits, bound, indices, values): `words` are the bits of x, `bits` those of `bound`."""
    word = np.uint32 if dtype == "float32" else np.uint64
    width = 8 * np.dtype(word).itemsize - 1
    magnitude, infinity = word((1 << width) - 1), int(np.array(np.inf, dtype).view(word)) >> width - _BITS
    label = f"{dtype}_{index}"
    count, collect, narrow = device(_count, label), device(_collect, label), device(_narrow, label)
    take = device(_take, label)

    def select_largest(x: Any, words: Any, bits: Any, bound: Any, indices: Any, values: Any) -> None:
        counts, shift = np.zeros(_BINS, np.int64), width - _BITS
        count(words, magnitude, shift, counts)
        bin_, above = narrow(counts, indices.size)
        lowest, few = min(bin_, infinity), 0  # NaN has no order among floats: all of them are collected
        for i in range(lowest, _BINS):
            few += counts[i]
        bits[0] = word(lowest) << word(shift)
        picks, keys = np.empty(few, indices.dtype), np.empty(few, words.dtype)
        collect(x, bound[0], words, magnitude, picks, keys)
        threshold = bin_
        while shift > 0:
            few_bits = min(_BITS, shift)
            for i in range(_BINS):
                counts[i] = 0
            for i in range(few):
                if keys[i] >> word(shift) == word(threshold):
                    counts[(keys[i] >> word(shift - few_bits)) & word((1 << few_bits) - 1)] += 1
            found, more = narrow(counts, indices.size - above)
            shift, above, threshold = shift - few_bits, above + more, threshold << few_bits | found
        take(x, picks, keys, word(threshold), indices.size - above, indices, values)

    return kernel(
        select_largest, label, array(dtype, readonly=True), array(np.dtype(word).name, readonly=True),
        array(np.dtype(word).name), array(dtype), array(index), array(dtype),
    )  # fmt: skip


def _count(words: Any, magnitude: Any, shift: Any, counts: Any) -> None:
    """How many magnitudes begin with each _BITS bits: four tables, for neighbours are often alike."""
    for start in range(0, words.size, _SPAN):
        part, tables = borrow(words, start, min(words.size, start + _SPAN)), np.zeros(4 * _BINS, np.uint32)
        a, b = borrow(tables, 0, _BINS), borrow(tables, _BINS, 2 * _BINS)
        c, d = borrow(tables, 2 * _BINS, 3 * _BINS), borrow(tables, 3 * _BINS, 4 * _BINS)
        whole = part.size // 4 * 4
        for i in range(0, whole, 4):
            a[(part[i] & magnitude) >> shift] += np.uint32(1)
            b[(part[i + 1] & magnitude) >> shift] += np.uint32(1)
            c[(part[i + 2] & magnitude) >> shift] += np.uint32(1)
            d[(part[i + 3] & magnitude) >> shift] += np.uint32(1)
        for i in range(whole, part.size):
            a[(part[i] & magnitude) >> shift] += np.uint32(1)
        for i in range(_BINS):
            counts[i] += np.int64(a[i]) + np.int64(b[i]) + np.int64(c[i]) + np.int64(d[i])


def _narrow(counts: Any, wanted: Any) -> Any:
    """The bin that the last of the `wanted` largest lies in, and how many lie in higher bins."""
    above, bin_ = 0, counts.size - 1
    while above + counts[bin_] < wanted:
        above += counts[bin_]
        bin_ -= 1
    return bin_, above


def _collect(x: Any, bound: Any, words: Any, magnitude: Any, picks: Any, keys: Any) -> None:
    """Coordinates, ascending, and magnitudes of what is not less than `bound`."""
    found, whole = 0, x.size // _LANES * _LANES
    for start in range(0, whole, _LANES):
        mask = _reaching(x, start, bound)
        while mask:
            i = start + _first(mask)
            picks[found], keys[found] = i, words[i] & magnitude
            found += 1
            mask &= mask - np.uint32(1)
    for i in range(whole, x.size):
        if not abs(x[i]) < bound:
            picks[found], keys[found] = i, words[i] & magnitude
            found += 1


def _take(x: Any, picks: Any, keys: Any, threshold: Any, ties: Any, indices: Any, values: Any) -> None:
    """All candidates above the threshold, and the first `ties` of those that equal it."""
    found = 0
    for i in range(picks.size):
        if keys[i] < threshold or found == indices.size:
            continue
        if keys[i] == threshold:
            if ties == 0:
                continue
            ties -= 1
        indices[found], values[found] = picks[i], x[picks[i]]
        found += 1


@intrinsic
def _reaching_intrinsic(typingctx: Any, x: Any, at: Any, bound: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> ir.Value:
        place = pointer(context, builder, sig.args[0], args[0], args[1])
        kind, bits = ir.VectorType(place.type.pointee, _LANES), sig.args[2].bitwidth
        values = builder.load(builder.bitcast(place, kind.as_pointer()))
        values.align = bits // 8
        size = intrinsic_call(builder, f"llvm.fabs.v{_LANES}f{bits}", kind, values)
        reached = builder.fcmp_unordered(">=", size, splat(builder, kind, args[2]))
        return builder.bitcast(reached, I32)

    return types.uint32(x, types.intp, bound), codegen


@intrinsic
def _first_intrinsic(typingctx: Any, mask: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> ir.Value:
        return intrinsic_call(builder, "llvm.cttz.i32", I32, args[0], I1(1))

    return types.uint32(types.uint32), codegen


def _reaching_in_python(x: Any, at: int, bound: Any) -> Any:
    return np.packbits(~(np.abs(x[at : at + _LANES]) < bound), bitorder="little").view(np.uint32)[0]


def _first_in_python(mask: Any) -> int:
    return (int(mask) & -int(mask)).bit_length() - 1


_reaching: Any = _reaching_in_python if features.without_jit() else _reaching_intrinsic
"""Helper (x, at, bound): a bit for each of _LANES values from x[at] on, set unless it is below `bound`."""
_first: Any = _first_in_python if features.without_jit() else _first_intrinsic
"""Helper (mask): number of the lowest bit that is set."""
