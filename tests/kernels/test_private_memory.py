"""What other ranks may read while it is written never holds a word without its masks."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from silofl.aggregation.formats.base import EncodedWords
from silofl.aggregation.layout import Block
from silofl_kernels import KEY_BYTES, MaskSet, Segments, quantize_and_mask

WORD, SIZE = 0x1234, 1 << 18


def most_seen(out: np.ndarray, write) -> int:
    """How often the word without masks was in `out` at most, while `write` went on in another thread."""
    writing = threading.Thread(target=write)
    writing.start()
    most = 0
    while writing.is_alive():
        most = max(most, int(np.count_nonzero(out == WORD)))
    return most


@pytest.mark.covering(0)
@pytest.mark.parametrize("length", [37, SIZE], ids=["many tensors", "one tensor"])
def test_quantized_words_appear_masked(main_prg: str, length: int) -> None:
    """A tile of 16,384 words, or what is left of one step of a cipher, would be there for a while."""
    ends = np.append(np.arange(length, SIZE, length), SIZE)
    parts = Segments(ends, np.ones(len(ends)), np.full(len(ends), WORD))
    masks = MaskSet(main_prg, [bytes([k]) * KEY_BYTES[main_prg] for k in range(3)], [1, -1, 1])
    x, out = np.full(SIZE, WORD, np.float32), np.zeros(SIZE, np.uint16)
    quantize_and_mask(x[:9], out[:9], segments=Segments([9], [1], [9]), masks=masks)  # compiled

    def write() -> None:
        for _ in range(3):
            quantize_and_mask(x, out, segments=parts, masks=masks, first=0)

    assert most_seen(out, write) < 40  # 4 by chance, with a standard deviation of 2


def test_words_of_a_transform_appear_masked() -> None:
    masks = MaskSet("aes-128-ctr", [bytes([k]) * 16 for k in range(3)], [1, -1, 1])
    encoded, out = EncodedWords(np.full(SIZE, WORD, np.uint16)), np.zeros(SIZE, np.uint16)

    def write() -> None:
        for _ in range(60):
            encoded.write(Block("x", 0, SIZE, 0, SIZE, 0), out, masks)

    assert most_seen(out, write) < 40
