"""Counts of ones: exact for every number of silos that its field holds, in the fewest bits."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from silofl.aggregation.formats.base import NO_RANGES, Weight
from silofl.aggregation.formats.counts import Counts
from silofl.aggregation.layout import Block
from silofl.errors import ConfigError
from silofl_kernels import MaskSet

NO_MASKS = MaskSet("aes-128-ctr", [], [])


@pytest.mark.parametrize(
    ("silos", "bits"), [(1, 1), (2, 2), (3, 2), (4, 4), (7, 4), (15, 4), (16, 8), (255, 8), (256, 16)]
)
@pytest.mark.parametrize("ring", [16, 32])
def test_counts_are_exact_up_to_as_many_silos_as_there_are(silos: int, bits: int, ring: Any) -> None:
    form, size = Counts(ring, silos), 101
    assert form.width == Fraction(bits, ring)
    rows = np.random.default_rng(silos).integers(0, 2, (silos, size)).astype(np.float32)
    rows[:, :5], rows[:, 5:9] = 1, 0
    words = [form.encode(row, Weight(1.0, 1 / silos), NO_RANGES, None).words for row in rows]  # type: ignore[attr-defined]
    total = np.sum(words, axis=0, dtype=words[0].dtype)
    out = np.empty(size, np.float32)
    form.decode(Block("x", 0, size, 0, len(total), 0), total, NO_MASKS, NO_RANGES, 1.0, out)
    assert out.tolist() == rows.sum(axis=0).tolist()


def test_more_silos_than_a_ring_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"counts of 256 silos do not fit secure\.bits = 8, which hold 255"):
        Counts(8, 256)
