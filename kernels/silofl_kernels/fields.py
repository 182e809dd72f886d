"""Several small whole numbers in one word of the ring: fields, which add up as their words do.

A word of B bits has p = B / bits fields, and is the sum over j of field j times 2^(j bits), modulo 2^B. So
the sum of words is the word of the sums of fields, and nothing is lost as long as each of those sums lies
from -2^(bits - 1) to 2^(bits - 1) - 1: what a negative field borrows from the next one is put back when they
are told apart.
"""

from __future__ import annotations

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import check_vector
from silofl_kernels.ring import Words, ring_bits

FIELD_BITS = (1, 2, 4, 8, 16, 32)
"""Widths of a field, as far as the ring has them: powers of two, so that slices begin with whole words."""


def fields_per_word(ring: int, bits: int) -> int:
    """p, how many fields of `bits` bits a word of `ring` bits has.

    Raises:
        ValueError: `bits` is not one of `FIELD_BITS`, or more than the ring has.
    """
    if bits not in FIELD_BITS or bits > ring:
        fitting = [one for one in FIELD_BITS if one <= ring]
        raise ValueError(f"a field in a ring of {ring} bits has one of {fitting} bits, not {bits}")
    return ring // bits


def pack_fields(numbers: Words, out: Words, bits: int) -> None:
    """Write fields of `bits` bits over `out`, p of `numbers` a word.

    Args:
        numbers: uint8, uint16 or uint32 (k,), contiguous: two's complement, as `quantize` writes it, of
            magnitudes that the caller has bounded. Not changed.
        out: of the same dtype, (ceil(k / p),), contiguous and writable; the last word's missing fields are 0.
        bits: of a field, one of `FIELD_BITS`, at most the ring's.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(numbers, out)
    _check(numbers, out, bits, written=out)
    backend.pack_fields(numbers, out, bits)


def unpack_fields(words: Words, out: Words, bits: int) -> None:
    """Write the fields of `words`, or of a sum of such words, over `out`, as two's complement of B bits.

    Args:
        words: uint8, uint16 or uint32 (ceil(k / p),), contiguous. Not changed.
        out: of the same dtype, (k,), contiguous and writable; it does not overlap `words`.
        bits: of a field, as `pack_fields` had it.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(words, out)
    _check(out, words, bits, written=out)
    backend.unpack_fields(words, out, bits)


def _check(numbers: Words, words: Words, bits: int, *, written: Words) -> None:
    ring = ring_bits(words)
    if numbers.dtype != words.dtype:
        raise TypeError(f"numbers and words are of one dtype, not {numbers.dtype} and {words.dtype}")
    fields = fields_per_word(ring, bits)
    for name, vector in (("numbers", numbers), ("words", words)):
        check_vector(name, vector, writable=vector is written)
    if words.size != -(-numbers.size // fields):
        raise ValueError(
            f"{numbers.size} fields of {bits} bits are {-(-numbers.size // fields)} words of {ring} bits, "
            f"not {words.size}"
        )
