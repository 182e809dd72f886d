"""Exact wide fixed point on the CPU: see `silofl_kernels.exact`. Shifts of 64-bit words."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels.checks import Floats, dtype_name
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.exact import HIGHEST, LOWEST
from silofl_kernels.ring import Words, ring_bits

_LIMBS = 6  # 64-bit words of a sum's magnitude: 224 bits, 31 of carries, and room for a digit that crosses
_ONE, _ALL = np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
_FRACTION = np.uint64((1 << 52) - 1)


def encode_exact(x: Floats, out: Words, weight: float, digit_bits: int) -> int:
    """See `silofl_kernels.ExactFormat.encode`."""
    return int(_encode_kernel(dtype_name(x.dtype), ring_bits(out))(x, out, weight, digit_bits))


def decode_exact(sums: Words, out: NDArray[np.float64], digit_bits: int) -> None:
    """See `silofl_kernels.ExactFormat.decode`."""
    _decode_kernel(ring_bits(sums))(sums, out, digit_bits)


@functools.cache
def _encode_kernel(x: str, bits: int) -> Kernel:
    """Kernel (x, out, weight, digit_bits) -> how many products had no digits."""
    word, whole = np.dtype(f"uint{bits}").type, device(_whole, f"{x}_{bits}")

    def encode_values(x: Any, out: Any, weight: Any, digit_bits: Any) -> Any:
        product, nonfinite = np.empty(1, np.float64), 0
        image = product.view(np.uint64)
        count = out.size // max(x.size, 1)
        ones = (_ONE << np.uint64(digit_bits)) - _ONE
        for i in range(x.size):
            product[0] = np.float64(x[i]) * weight
            number, shift = np.uint64(0), 0
            if abs(product[0]) < 2.0**HIGHEST:
                number, shift = whole(image[0])
            else:
                nonfinite += 1
            negative = product[0] < 0
            for j in range(count):
                place, digit = digit_bits * j - shift, np.uint64(0)
                if 0 <= place < 64:
                    digit = number >> np.uint64(place) & ones
                elif -digit_bits < place < 0:
                    digit = number << np.uint64(-place) & ones
                out[i * count + j] = word(-np.int64(digit) if negative else np.int64(digit))
        return nonfinite

    parameters = array(x, readonly=True), array(f"uint{bits}"), types.float64, types.int64
    return kernel(encode_values, f"{x}_{bits}", *parameters)


def _whole(image: Any) -> Any:
    """(m, s), |v| = m 2^(s + LOWEST), s >= 0, of the bits of a float64 v; to nearest even below 2^LOWEST."""
    exponent = np.int64(image >> np.uint64(52) & np.uint64(0x7FF))
    number = image & _FRACTION
    if exponent:
        number |= _ONE << np.uint64(52)
    else:
        exponent = np.int64(1)  # subnormal
    shift = exponent - 1075 - LOWEST
    if shift >= 0:
        return number, shift
    if shift < -54:
        return np.uint64(0), 0
    cut = np.uint64(-shift)
    kept, half = number >> cut, _ONE << (cut - _ONE)
    rest = number & ((_ONE << cut) - _ONE)
    if rest > half or (rest == half and kept & _ONE):
        kept += _ONE
    return kept, 0


@functools.cache
def _decode_kernel(bits: int) -> Kernel:
    """Kernel (sums, out, digit_bits): signed digits to one number of many limbs, and that to a float64."""
    signed: Any = {8: np.int8, 16: np.int16, 32: np.int32}[bits]
    rounded = device(_rounded, str(bits))

    def decode_values(sums: Any, out: Any, digit_bits: Any) -> None:
        limbs = np.empty(_LIMBS, np.uint64)
        count = sums.size // max(out.size, 1)
        ones = (np.int64(1) << digit_bits) - 1
        for i in range(out.size):
            carry = np.int64(0)  # of the whole sum: its sign is that of the sum, or it is zero
            for j in range(count):
                carry = (np.int64(signed(sums[i * count + j])) + carry) >> digit_bits
            sign, carry = np.int64(-1 if carry < 0 else 1), np.int64(0)
            for k in range(_LIMBS):
                limbs[k] = 0
            for j in range(count + 1):  # the last place takes the carry, which is wider than a digit
                total = carry + (sign * np.int64(signed(sums[i * count + j])) if j < count else 0)
                digit = np.uint64(total & ones if j < count else total)
                carry = total >> digit_bits
                limb, place = digit_bits * j >> 6, np.uint64(digit_bits * j & 63)
                limbs[limb] |= digit << place
                if place:
                    limbs[limb + 1] |= digit >> (np.uint64(64) - place)
            out[i] = sign * rounded(limbs)

    return kernel(
        decode_values, str(bits), array(f"uint{bits}", readonly=True), array("float64"), types.int64
    )


def _rounded(limbs: Any) -> Any:
    """The number of little-endian limbs times 2^LOWEST, to nearest even: no such float64 is subnormal."""
    top = _LIMBS - 1
    while top > 0 and limbs[top] == 0:
        top -= 1
    head, spare = limbs[top], 0
    if top == 0:
        return math.ldexp(np.float64(head), LOWEST)
    while not head >> np.uint64(63):
        head <<= _ONE
        spare += 1
    below = limbs[top - 1]
    if spare:
        head |= below >> np.uint64(64 - spare)
        below <<= np.uint64(spare)
    lost = below != 0
    for k in range(top - 1):
        lost = lost or limbs[k] != 0
    if lost:
        head |= _ONE  # far below the last bit kept: decides ties, changes nothing else
    return math.ldexp(np.float64(head), LOWEST + 64 * top - spare)
