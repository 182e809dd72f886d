"""Fields of words on the CPU: see `silofl_kernels.fields`. Loops without branches, for vector units."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from silofl_kernels.cpu.jit import Kernel, array, kernel
from silofl_kernels.ring import Words, ring_bits


def pack_fields(numbers: Words, out: Words, bits: int) -> None:
    """See `silofl_kernels.pack_fields`."""
    _pack_kernel(ring_bits(out), bits)(numbers, out)


def unpack_fields(words: Words, out: Words, bits: int) -> None:
    """See `silofl_kernels.unpack_fields`."""
    _unpack_kernel(ring_bits(words), bits)(words, out)


@functools.cache
def _pack_kernel(ring: int, bits: int) -> Kernel:
    """Kernel (numbers, out) for one width of ring and field."""
    word, fields = np.dtype(f"uint{ring}").type, ring // bits

    def pack_words(numbers: Any, out: Any) -> None:
        whole = numbers.size // fields
        for i in range(whole):
            total = word(0)
            for j in range(fields):
                total = word(total + word(numbers[i * fields + j] << word(j * bits)))
            out[i] = total
        if whole < out.size:
            total = word(0)
            for j in range(numbers.size - whole * fields):
                total = word(total + word(numbers[whole * fields + j] << word(j * bits)))
            out[whole] = total

    name = f"uint{ring}"
    return kernel(pack_words, f"{ring}_{bits}", array(name, readonly=True), array(name))


@functools.cache
def _unpack_kernel(ring: int, bits: int) -> Kernel:
    """Kernel (words, out): half a field's range is added to all fields, so that none borrows from another."""
    word, fields = np.dtype(f"uint{ring}").type, ring // bits
    half = 1 << (bits - 1)
    biases = word(sum(half << (j * bits) for j in range(fields)))
    low, ones = word(half), word((1 << bits) - 1)

    def unpack_words(words: Any, out: Any) -> None:
        whole = out.size // fields
        for i in range(whole):
            biased = word(words[i] + biases)
            for j in range(fields):
                out[i * fields + j] = word(word(biased >> word(j * bits)) & ones) - low
        if whole < words.size:
            biased = word(words[whole] + biases)
            for j in range(out.size - whole * fields):
                out[whole * fields + j] = word(word(biased >> word(j * bits)) & ones) - low

    name = f"uint{ring}"
    return kernel(unpack_words, f"{ring}_{bits}", array(name, readonly=True), array(name))
