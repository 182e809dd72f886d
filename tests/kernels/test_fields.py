"""Fields of words: told apart again after sums, whatever the signs, in every ring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl_kernels import FIELD_BITS, fields_per_word, pack_fields, ring_dtype, unpack_fields

PAIRS = [(ring, bits) for ring in (8, 16, 32) for bits in FIELD_BITS if bits <= ring]
USED = [(8, 4), (16, 4), (16, 8), (32, 2), (32, 32)]


def naive(numbers: Any, ring: int, bits: int) -> list[int]:
    """Words of signed numbers, one after the other."""
    fields = ring // bits
    return [
        sum(int(one) << (bits * j) for j, one in enumerate(numbers[at : at + fields])) % (1 << ring)
        for at in range(0, len(numbers), fields)
    ]


def packed(numbers: Any, ring: int, bits: int) -> Any:
    kind: Any = ring_dtype(ring)
    given_ = (np.asarray(numbers, np.int64) % (1 << ring)).astype(kind)
    out = np.empty(-(-len(given_) // fields_per_word(ring, bits)), kind)
    pack_fields(given_, out, bits)
    return out


def check(ring: int, bits: int, data: Any) -> None:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    total = np.array(data.draw(st.lists(st.integers(low, high), max_size=70)), np.int64)
    rows = [np.array(data.draw(st.lists(st.integers(low, high), min_size=len(total), max_size=len(total))))]
    rows = [row.astype(np.int64).reshape(len(total)) for row in rows]
    rows.append(total - rows[0])  # perhaps beyond a field's range, as long as the sum is not
    words = [packed(row, ring, bits) for row in rows]
    assert words[0].tolist() == naive(rows[0], ring, bits)
    out = np.empty(len(total), ring_dtype(ring))  # type: ignore[arg-type]
    unpack_fields(words[0] + words[1], out, bits)
    assert out.view(f"int{ring}").tolist() == total.tolist()


@pytest.mark.covering(0)
@pytest.mark.parametrize(("ring", "bits"), USED)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_sums_of_fields_are_those_of_their_numbers(ring: int, bits: int, data: Any) -> None:
    check(ring, bits, data)


@pytest.mark.long
@pytest.mark.parametrize(("ring", "bits"), [pair for pair in PAIRS if pair not in USED])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_sums_of_fields_of_every_width(ring: int, bits: int, data: Any) -> None:
    check(ring, bits, data)


def test_what_is_not_as_it_should_be_is_refused() -> None:
    numbers, words = np.zeros(9, np.uint16), np.zeros(3, np.uint16)
    for bits in (0, 3, 32):
        with pytest.raises(ValueError, match=rf"a field in a ring of 16 bits has one of .* not {bits}"):
            pack_fields(numbers, words, bits)
    with pytest.raises(ValueError, match="9 fields of 4 bits are 3 words of 16 bits, not 2"):
        pack_fields(numbers, words[:2], 4)
    with pytest.raises(TypeError, match="one dtype, not uint8 and uint16"):
        unpack_fields(words, numbers.astype(np.uint8), 4)
    with pytest.raises(ValueError, match="numbers is one-dimensional, contiguous"):
        unpack_fields(words, np.zeros(18, np.uint16)[::2], 4)
    frozen = words.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="words is written to, and read-only"):
        pack_fields(numbers, frozen, 4)
