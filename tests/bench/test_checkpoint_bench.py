"""`silofl bench checkpoint`: every figure beside the round, nothing left behind, no room refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from silofl.bench import checkpoint
from silofl.comm import run_in_threads
from silofl.errors import ConfigError


def measure(directory: Path, *, buddy: bool = False) -> list[checkpoint.Result]:
    def rank(comm: Any) -> checkpoint.Result:
        return checkpoint.run(
            comm,
            parameters=4096,
            own_vectors=2,
            seconds=0.01,
            repeats=2,
            buddy=buddy,
            directory=directory,
        )

    return run_in_threads(2, rank)


@pytest.mark.covering(0)
@pytest.mark.parametrize("buddy", [False, True])
def test_the_stall_is_measured_beside_the_round(tmp_path: Path, buddy: bool) -> None:
    first, second = measure(tmp_path, buddy=buddy)
    assert first == second
    rows = {row.name: row for row in first.rows}
    stall = rows[checkpoint.STALL]
    assert stall.reference == checkpoint.ROUND
    assert stall.goal == "<= 0.05"
    parts = [row.seconds for name, row in rows.items() if name.startswith("  of it")]
    assert len(parts) == 2
    assert max(parts) <= stall.slowest
    assert any("0.01 s a round" in note for note in first.notes)
    assert any("sealed" in note for note in first.notes) is buddy
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--directory .* cannot be used"):
        measure(tmp_path / "missing")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 10))
    with pytest.raises(ConfigError, match=r"GiB free: name another"):
        measure(tmp_path)
