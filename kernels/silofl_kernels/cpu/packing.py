"""Codes side by side in bytes on the CPU: see `silofl_kernels.packing`.

Eight codes at a time, one in each byte of a 64-bit word: pairs of bytes are pushed together, then pairs of
those, then the halves; the other way they are drawn apart.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from silofl_kernels.cpu import features
from silofl_kernels.cpu.jit import Kernel, array, kernel
from silofl_kernels.cpu.llvm_ir import I64, pointer

if TYPE_CHECKING:
    from silofl_kernels.packing import Bytes, Packable

_U = np.uint64
_EVERY = _U(0x0101010101010101)
_HALVES = (_U(0x00FF00FF00FF00FF), _U(0x0000FFFF0000FFFF), _U(0x00000000FFFFFFFF))


def pack_bits(codes: Packable, out: Bytes, bits: int) -> bool:
    """See `silofl_kernels.pack_bits`; whether all codes have `bits` bits."""
    kept = codes.view(np.uint8)
    signed = codes.dtype == np.int8
    whole = codes.size // 8 * 8
    beyond = int(_pack_kernel()(kept[:whole], out, bits, signed))
    if whole < codes.size:
        near, rest = np.zeros(8, np.uint8), np.zeros(8, np.uint8)
        near[: codes.size - whole] = kept[whole:]
        if signed and bits == 1:
            near[codes.size - whole :] = 1
        beyond |= int(_pack_kernel()(near, rest, bits, signed))
        left = out[whole * bits // 8 :]
        left[:] = rest[: left.size]
    return beyond == 0


def unpack_bits(packed: Bytes, out: Packable, bits: int) -> None:
    """See `silofl_kernels.unpack_bits`."""
    kept, signed = out.view(np.uint8), out.dtype == np.int8
    whole = out.size // 8 * 8
    _unpack_kernel()(packed, kept[:whole], bits, signed)
    if whole < out.size:
        near, rest = np.zeros(8, np.uint8), np.zeros(8, np.uint8)
        left = packed[whole * bits // 8 :]
        near[: left.size] = left
        _unpack_kernel()(near, rest, bits, signed)
        kept[whole:] = rest[: out.size - whole]


@functools.cache
def _pack_kernel() -> Kernel:
    """Kernel (codes, out, bits, signed): whole groups of eight; not 0 where a code has more bits."""

    def pack_groups(codes: Any, out: Any, bits: Any, signed: Any) -> Any:
        b, beyond = _U(bits), _U(0)
        low = _EVERY * _U((1 << bits) - 1)
        sign = _EVERY * _U((1 << bits) // 2 if signed and bits > 1 else 0)
        signs, place = signed and bits == 1, 0
        for at in range(0, codes.size, 8):
            word = _load_word(codes, at)
            if signs:
                turned = (word >> _U(7)) & _EVERY
                beyond |= word ^ (_EVERY ^ turned * _U(0xFE))  # anything but +1 and -1
                word = turned
            else:  # two's complement moved to 0 and up, byte by byte; what is not in b bits shows above them
                moved = ((word & ~(_EVERY << _U(7))) + sign) ^ (word & (_EVERY << _U(7)))
                beyond |= moved & ~low
                word &= low
            word = (word & _HALVES[0]) | ((word & ~_HALVES[0]) >> (_U(8) - b))
            word = (word & _HALVES[1]) | ((word & ~_HALVES[1]) >> (_U(16) - b - b))
            word = (word & _HALVES[2]) | ((word & ~_HALVES[2]) >> (_U(32) - _U(4) * b))
            if place + 8 <= out.size:
                _store_word(out, place, word)  # its last bytes are written again by the next group
            else:
                for i in range(bits):
                    out[place + i] = np.uint8(word >> _U(8 * i))
            place += bits
        return beyond

    return kernel(pack_groups, "", array("uint8", readonly=True), array("uint8"), types.int64, types.boolean)


@functools.cache
def _unpack_kernel() -> Kernel:
    """Kernel (packed, out, bits, signed): whole groups of eight."""

    def unpack_groups(packed: Any, out: Any, bits: Any, signed: Any) -> None:
        b = _U(bits)
        quarter, eighth = (_U(1) << (b + b)) - _U(1), (_U(1) << b) - _U(1)
        half = (_U(1) << (_U(4) * b)) - _U(1)
        quarters, eighths = quarter | quarter << _U(32), (eighth * _U(0x0001000100010001))
        sign = _EVERY * _U((1 << bits) // 2 if signed and bits > 1 else 0)
        signs, place, top = signed and bits == 1, 0, _EVERY << _U(7)
        for at in range(0, out.size, 8):
            if place + 8 <= packed.size:
                word = _load_word(packed, place)
            else:
                word = _U(0)
                for i in range(bits):
                    word |= _U(packed[place + i]) << _U(8 * i)
            word = (word & half) | ((word >> (_U(4) * b)) & half) << _U(32)
            word = (word & quarters) | ((word >> (b + b)) & quarters) << _U(16)
            word = (word & eighths) | ((word >> b) & eighths) << _U(8)
            if signs:
                word = _EVERY ^ word * _U(0xFE)
            elif signed:
                word = (((word ^ sign) | top) - sign) ^ top  # byte by byte, without a borrow
            _store_word(out, at, word)
            place += bits

    return kernel(
        unpack_groups, "", array("uint8", readonly=True), array("uint8"), types.int64, types.boolean
    )


@intrinsic
def _load_intrinsic(typingctx: Any, source: Any, index: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> ir.Value:
        place = pointer(context, builder, sig.args[0], args[0], args[1])
        word = builder.load(builder.bitcast(place, I64.as_pointer()))
        word.align = 1
        return word

    return types.uint64(source, types.intp), codegen


@intrinsic
def _store_intrinsic(typingctx: Any, target: Any, index: Any, word: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> ir.Value:
        place = pointer(context, builder, sig.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(place, I64.as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(target, types.intp, types.uint64), codegen


def _load_in_python(source: Any, index: int) -> Any:
    return source[index : index + 8].view(np.uint64)[0]


def _store_in_python(target: Any, index: int, word: Any) -> None:
    target[index : index + 8] = np.array([word]).view(np.uint8)


_load_word: Any = _load_in_python if features.without_jit() else _load_intrinsic
_store_word: Any = _store_in_python if features.without_jit() else _store_intrinsic
