"""`silofl bench start`: every way comes to its first round."""

from __future__ import annotations

import os

import pytest

from silofl.bench import starts


@pytest.mark.long
def test_each_way_is_measured_beside_one_import() -> None:
    rows, notes = starts.run([2], repeats=1)
    assert [row.name for row in rows] == ["import torch", *(f"2 silos, {way}" for way in starts.WAYS)]
    assert all(row.seconds > 0 for row in rows)
    assert len(notes) == 1


def test_memory_is_what_no_other_process_shares() -> None:
    before = starts._unshared(os.getpid())
    kept = b"x" * (32 << 20)
    assert 31 <= starts._unshared(os.getpid()) - before <= 40
    assert len(kept) == 32 << 20
