"""`silofl bench privacy`: steps learn the same but for the noise, and stand beside the plain one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from silofl.bench import privacy
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError, SiloflError

PARAMETERS, BATCH = 2000, 16


class ReductionsOfThreads:
    """`NativeReductions` where ranks are threads."""

    here = threading.local()

    def allreduce(self, x: Any, out: Any) -> None:
        out[:] = self.here.comm.allreduce(x)

    def free(self) -> None:
        pass


def run(directory: Path) -> privacy.Result:
    def body(comm: Communicator) -> privacy.Result:
        ReductionsOfThreads.here.comm = comm
        return privacy.run(comm, parameters=PARAMETERS, batch=BATCH, repeats=2, directory=directory)

    first, *others = run_in_threads(3, body, timeout_s=200.0)  # the first one compiles
    assert others == [first, first]
    return first


@pytest.fixture(autouse=True)
def without_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy, "NativeReductions", ReductionsOfThreads)


@pytest.mark.long
def test_private_steps_stand_beside_the_plain_one(tmp_path: Path) -> None:
    result = run(tmp_path)
    goals = {row.name: row.goal for row in result.rows if row.goal}
    assert goals == dict.fromkeys(privacy.RINGS, "<= 1.4")
    assert {row.reference for row in result.rows} == {privacy.PLAIN}
    rows = [row.name for row in result.rows]
    assert [rows.count(f"  of it, {phase}") for phase in privacy.PHASES.values()] == [3] * 4
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_the_models_differ_by_the_noise_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privacy, "NOISE", 0.05)  # so little that what was learnt is seen beside it
    drifts = [float(note.split()[-8]) for note in run(tmp_path).notes[-3:]]
    assert drifts == pytest.approx([1.0] * 3, abs=0.1)  # of 2000 coordinates and 3 steps


@pytest.mark.long
def test_another_model_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(self: Any) -> None:
        self._model.vector.add_(torch.ones_like(self._model.vector))

    monkeypatch.setattr(privacy.Reference, "step", elsewhere)
    with pytest.raises(SiloflError, match=r"private step, 32-bit ring: .* times as far from the reference"):
        run(tmp_path)


@pytest.mark.long
def test_a_ring_that_is_too_small_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"secure": {"bits": 8}}
    monkeypatch.setattr(privacy, "RINGS", {**privacy.RINGS, "small": small})
    result = run(tmp_path)
    assert {row.name for row in result.rows if row.goal} == set(privacy.RINGS) - {"small"}
    assert result.notes[0].startswith("no small: secure.bits = 8 is too small a ring")
    monkeypatch.setattr(privacy, "RINGS", {"small": small})
    with pytest.raises(ConfigError, match=r"secure.bits = 8 is too small a ring"):
        run(tmp_path)


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--directory .* cannot be written"):
        run(tmp_path / "missing")
    with pytest.raises(ConfigError, match="-n 2 is too few"):
        run_in_threads(
            2, lambda comm: privacy.run(comm, parameters=9, batch=1, repeats=1, directory=tmp_path)
        )
