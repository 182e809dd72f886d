"""The job is killed at every single thing that it does to the disk; what was committed can be read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from silofl.checkpoint import atomic_files
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.checkpoint.store import CheckpointStore
from tests.campaigns import mostly_long
from tests.checkpoint.run_of_silos import Silos, own_round, same, state_of

ROUNDS = 7


class Killed(BaseException):
    """The end of a process, as far as a test can play it."""


class Power:
    """Lets so many operations on the disk happen, then none: not even those that clean up."""

    def __init__(self, patch: pytest.MonkeyPatch, operations: int) -> None:
        self.left = operations
        for home, name in (
            *((Path, name) for name in ("rename", "unlink", "mkdir")),
            *((os, name) for name in ("fsync", "rmdir")),
            (shutil, "rmtree"),
        ):
            patch.setattr(home, name, self._limited(getattr(home, name), sync=name == "fsync"))
        patch.setattr(atomic_files, "save_file", self._torn(atomic_files.save_file))

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def _limited(self, function: Callable[..., Any], *, sync: bool) -> Callable[..., Any]:
        def limited(*arguments: Any, **named: Any) -> Any:
            self._spend()
            return None if sync else function(*arguments, **named)

        return limited

    def _torn(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def torn(arrays: Any, path: Path, metadata: Any) -> None:
            self._spend()
            path.write_bytes(b"torn")
            self._spend()
            function(arrays, path, metadata)

        return torn


def a_run_that_loses_its_leader(silos: Silos, done: Callable[[int], None]) -> None:
    """Rounds 1 to 3 by all, 3 again and 4 to 6 without silo 0, then 7 by all."""

    def rounds(numbers: range, tag: int) -> Callable[[CheckpointStore, int], None]:
        def work(store: CheckpointStore, silo: int) -> None:
            for number in numbers:
                store.commit_pending()
                if silo == 1:
                    done(number - 2)  # whose manifest's writers have all been heard of
                store.begin(number, state_of(silo, number, tag))
            store.commit_pending()

        return work

    silos.together([0, 1, 2], rounds(range(1, 4), 0))
    silos.together([1, 2], rounds(range(3, 7), 1))
    silos.start_again([0])
    silos.together([0, 1, 2], lambda store, silo: store.own_state({0}))
    silos.commit([0, 1, 2], ROUNDS, tag=2)
    done(ROUNDS)


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("shared", mostly_long([True, False], 0), ids=["one folder", "a folder each"])
def test_killed_at_any_operation_the_newest_committed_round_is_readable(
    tmp_path: Path, shared: bool, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills, found_rounds = 0, set()
    for operations in range(0, 10_000, step):
        silos = Silos(tmp_path / str(operations), 3, shared=shared)
        committed = [0]
        with monkeypatch.context() as patch:
            power = Power(patch, operations)
            try:
                a_run_that_loses_its_leader(silos, committed.append)
            except Killed:
                kills += 1
            silos.wait_for_threads()
        everyone = silos.latest()
        rounds = {r.round if r else 0 for r in everyone.values()}
        assert len(rounds) == 1
        found_rounds |= rounds
        assert rounds.pop() >= max(committed), f"killed after {operations} operations"
        tags = set()
        for silo, restored in everyone.items():
            if restored is not None and restored.state is not None:
                tag = restored.state["own"]["tag"]
                assert same(restored.state, state_of(silo, own_round(restored), tag))
                tags |= {tag} if silo in restored.members else set()
        assert len(tags) <= 1, f"killed after {operations} operations: two attempts are mixed"
        shutil.rmtree(tmp_path / str(operations), ignore_errors=True)
        if power.left >= 0:
            break
    assert kills > 150 / step
    assert len(found_rounds) > ROUNDS / 2


def test_a_folder_that_another_silo_removes_meanwhile_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silos that share a disk come back at once: one looks through rounds that another drops."""
    for number in (1, 2):
        folder = tmp_path / f"round-{number:06d}"
        folder.mkdir()
        (folder / ".silo-0000.x.tmp").touch()
    vanishing, scandir = tmp_path / "round-000001", os.scandir

    def gone(path: Any = ".") -> Any:
        if Path(path) == vanishing:
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", gone)
    CheckpointDirectory(tmp_path, 0).remove_stale()
    assert not (tmp_path / "round-000002" / ".silo-0000.x.tmp").exists()
