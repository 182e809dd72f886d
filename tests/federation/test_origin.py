"""A resume on other data, or with other threads, than the rounds before."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import ChangedDataError, ConfigError, SiloflError, StorageError
from silofl.federation import entry, federation, origin, rundir, start
from silofl.federation.early_checks import Start, refuse_early
from silofl.federation.loop import train
from silofl.federation.origin import Origin
from silofl.launcher.environment import PLANNED
from silofl.tasks.base import SiloData
from tests.campaigns import mostly_long
from tests.federation.threads import Normalized, settings

SILOS = 3


class Changed(Normalized):
    """As `Normalized`, but for what `change` makes of one silo's arrays."""

    def __init__(self, change: Any = lambda x, y: (x, y), silo: int = 1) -> None:
        self._change, self._silo = change, silo

    def data(self, silo: int, silos: int) -> SiloData:
        before = super().data(silo, silos)
        if silo != self._silo:
            return before
        assert isinstance(before.train, TensorDataset)
        return SiloData(TensorDataset(*self._change(*before.train.tensors)), before.test)


def outcomes(
    config: Config, task: Normalized | None = None, *, resume: bool = False, threads: int = 1
) -> list[Any]:
    """What every silo has in the end: its summary, or the error that it raised."""

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(threads)
        try:
            return train(config, task or Changed(), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=100)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Two rounds are trained; the configuration of the four, with further sections."""

    def of(**sections: Any) -> Config:
        config = settings(tmp_path, **sections | {"run": {"rounds": 2, "display": "plain"}})
        assert all(isinstance(one, dict) for one in outcomes(config))
        return settings(tmp_path, **sections | {"run": {"rounds": 4, "display": "plain"}})

    return of


def one_value(x: torch.Tensor, y: torch.Tensor) -> Any:
    x = x.clone()
    x[17, 3] += 1
    return x, y


def one_label(x: torch.Tensor, y: torch.Tensor) -> Any:
    y = y.clone()
    y[0] = (y[0] + 1) % 10
    return x, y


CHANGES = {
    "data": (one_value, one_label, lambda x, y: (x.flip(0), y.flip(0))),
    "numbers of samples": (lambda x, y: (x[:-1], y[:-1]), lambda x, y: (x.repeat(2, 1), y.repeat(2))),
}


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("what", "change"),
    mostly_long([(k, c) for k, changes in CHANGES.items() for c in changes], 0, 3),
)
def test_other_data_is_refused_and_accepted_where_the_key_says_so(
    run: Any, what: str, change: Any, capfd: Any
) -> None:
    config, sentence = run(), f"silo 1 has other {what} than the run was trained on"
    for error in outcomes(config, Changed(change), resume=True):
        assert isinstance(error, ChangedDataError)
        assert (error.exit_code, error.rank) == (2, 1)
        assert str(error) == (
            f"{sentence}: restore it (a split that is drawn at random needs a seed), or begin another run "
            "with --run, or accept it with --set data.accept_changes=true"
        )
    accepting = config.model_copy(update={"data": config.data.model_copy(update={"accept_changes": True})})
    capfd.readouterr()
    assert [one["rounds"] for one in outcomes(accepting, Changed(change), resume=True)] == [4] * SILOS
    assert (
        f"silo 1 has other {what} than the run was trained on, as data.accept_changes"
        in capfd.readouterr().out
    )
    # From here on it is the run's data.
    assert [one["rounds"] for one in outcomes(config, Changed(change), resume=True)] == [4] * SILOS
    assert isinstance(outcomes(config, resume=True)[0], ChangedDataError)


def test_under_privacy_other_data_is_refused_whatever_the_key_says(run: Any) -> None:
    config = run(
        privacy={"unit": "silo", "noise_multiplier": 1.0, "delta": 0.1},
        data={"accept_changes": True},
        strategy={"momentum": 0.0, "lr": 1.0},
    )
    errors = outcomes(config, Changed(one_value), resume=True)
    assert all(isinstance(error, ChangedDataError) for error in errors)
    assert str(errors[0]).endswith("no other data is accepted, for the ledger counts what was spent of this")


def test_the_digest_stays_with_its_silo_and_is_another_in_each_run(run: Any, tmp_path: Path) -> None:
    config = run()
    states = [_origin(config, silo) for silo in range(SILOS)]
    assert len({state["data"] for state in states}) == SILOS
    text = "".join(
        path.read_text(errors="replace")
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.name.startswith("silo-")
    )
    assert all(state["data"] not in text for state in states)
    for path in tmp_path.rglob("silo-*.safetensors"):
        assert path.stat().st_mode & 0o077 == 0
    again = outcomes(settings(tmp_path / "again", run={"dir": str(tmp_path / "again"), "rounds": 1}))
    assert len(again) == SILOS
    other = _origin(settings(tmp_path / "again", run={"dir": str(tmp_path / "again")}), 1)
    assert other["data"] != states[1]["data"]


def _origin(config: Config, silo: int) -> dict[str, Any]:
    """What a silo's newest checkpoint has of its origin."""
    newest = sorted(Path(config.run.dir).glob(f"checkpoints/round-*/silo-{silo:04d}*.safetensors"))[-1]
    data = newest.read_bytes()
    length = int.from_bytes(data[:8], "little")
    items = dict(json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["state"])["items"])
    return dict(items["origin"]["items"])


@pytest.mark.covering(0)
@pytest.mark.parametrize("given", [False, True])
def test_threads_are_kept_unless_the_user_sets_them(
    run: Any, given: bool, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    config = run()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    if given:
        monkeypatch.delenv(PLANNED, raising=False)
    else:
        monkeypatch.setenv(PLANNED, "2")
    assert isinstance(outcomes(config, resume=True, threads=2)[0], dict)
    lines = [line for line in capfd.readouterr().out.splitlines() if "torch's threads" in line]
    sentence = (
        "  note: silo {} goes on with torch's threads at 1 as before, for the model's last bits depend on "
    )
    sentence += "them; this start would have 2, and OMP_NUM_THREADS=2 takes them"
    if given:
        sentence = "  note: silo {} goes on with torch's threads at 2, by OMP_NUM_THREADS, which were 1: the "
        sentence += "model's last bits may differ"
    # Torch has one number for all threads of a process: the first silo may have set it back for the others.
    assert lines
    assert set(lines) <= {sentence.format(silo) for silo in range(SILOS)}
    assert [_origin(config, silo)["threads"] for silo in range(SILOS)] == [2 if given else 1] * SILOS


@pytest.mark.long
def test_the_threads_of_before_give_the_bits_of_before(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # a user's number is kept
    config = run()
    resumed = outcomes(config, resume=True, threads=2)[0]
    whole = outcomes(settings(tmp_path / "whole", run={"dir": str(tmp_path / "whole")}))[0]
    assert resumed["model_sha256"] == whole["model_sha256"]


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("torch", "9.9", "torch 9.9"),
        ("processor", "ALTIVEC", "vector units ALTIVEC"),
        ("device", "mps", "train.device mps"),
    ],
)
def test_what_cannot_be_set_back_is_said(
    run: Any, key: str, value: str, what: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    config = run()
    measures = origin._measures
    monkeypatch.setattr(origin, "_measures", lambda silo: measures(silo) | {key: value})
    assert isinstance(outcomes(config, resume=True)[0], dict)
    out = capfd.readouterr().out
    assert f"note: silo 2 goes on with {what} (was " in out
    assert "the model's last bits may differ" in out


@pytest.mark.long
def test_a_changed_task_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Not refused: it may be a mistake in it that was mended."""
    monkeypatch.chdir(tmp_path)
    lines = "from tests.federation.threads import Normalized\n\n\nclass Mine(Normalized): ...\n"
    Path("changing_task.py").write_text(lines)
    tables: dict[str, Any] = {"task": {"factory": "changing_task:Mine"}}

    def train_to(rounds: int, *, resume: bool) -> list[str]:
        config = settings(tmp_path / "run", run={"rounds": rounds, "display": "plain"}, **tables)

        def rank(comm: Communicator) -> Any:
            torch.set_num_threads(1)
            return train(config, comm=comm, resume=resume)

        run_in_threads(SILOS, rank, timeout_s=100)
        return [line for line in capfd.readouterr().out.splitlines() if "changing_task.py" in line]

    try:
        assert train_to(1, resume=False) == train_to(2, resume=True) == []
        Path("changing_task.py").write_text(f"{lines}# one more line\n")
        assert train_to(3, resume=True) == [
            f"  note: silo {silo} goes on with a changed changing_task.py: the rounds before were trained "
            "with what it was"
            for silo in range(SILOS)
        ]
        assert train_to(4, resume=True) == []
    finally:
        sys.modules.pop("changing_task", None)


def test_a_resume_that_finds_nothing_committed_says_that_it_begins_anew(run: Any, capfd: Any) -> None:
    config = run()
    shutil.rmtree(Path(config.run.dir) / "checkpoints")
    capfd.readouterr()
    outcomes(config, resume=True)
    assert (
        "tells of 2 round(s), and of them none is committed where checkpoints are looked for: the run begins "
        "anew" in capfd.readouterr().out
    )


def test_a_checkpoint_without_an_origin_is_gone_on_with(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = federation.committed_state
    monkeypatch.setattr(federation, "committed_state", lambda parts: whole(parts[1:]))
    config = run()
    monkeypatch.undo()
    assert isinstance(outcomes(config, Changed(one_value), resume=True)[0], dict)


def test_another_number_of_ranks_is_told_and_keeps_an_opened_round_closed(run: Any) -> None:
    config = run()

    def rank(comm: Communicator) -> tuple[list[str], bool, str]:
        own = Origin.__new__(Origin)
        own._group, own._private, own._accept, own._code = ElasticGroup(comm), False, True, {}
        own._ranks = 2 if comm.rank == 1 else 1
        own.new_samples = None
        own._changed_data, own._other = lambda *_: [], lambda *_: []  # type: ignore[assignment, method-assign]
        said = own._compare(_origin(config, comm.rank))
        openings = SimpleNamespace(was_opened=lambda number: number == 7)
        context = SimpleNamespace(openings=openings, origin=own)
        state: Any = SimpleNamespace(
            federation=SimpleNamespace(context=context), first_round=7, group=own._group
        )
        try:
            start._refuse_other_updates(state)
        except ConfigError as error:
            return said, own.other_ranks, str(error)
        return said, own.other_ranks, ""

    for silo, (said, other, error) in enumerate(run_in_threads(2, rank)):
        assert other == (silo == 1)
        assert any("train.ranks_per_silo = 2, which was 1" in line for line in said) == other
        assert error.startswith("silo 1: round 7 may have been opened before, and train.ranks_per_silo was")


def test_a_silo_that_rejoins_with_other_data_finds_out_alone(run: Any) -> None:
    state = _origin(run(), 1)
    own = Origin.__new__(Origin)
    own.new_samples = None
    own._group = type("Group", (), {"silo_id": 1})()
    own._private, own._accept, own._ranks = False, False, 1
    own._silo = type("Silo", (), {"samples": 1, "test_samples": 1, "data_digest": lambda self: b"x"})()
    with pytest.raises(ChangedDataError, match="silo 1 has other numbers of samples"):
        own.take_over({}, state)


class Wanderer(Changed):
    """A task that goes to another folder, as programs do that read data with relative names."""

    def data(self, silo: int, silos: int) -> SiloData:
        os.chdir("/")
        return super().data(silo, silos)


def test_a_task_that_changes_the_folder_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = settings(Path("run"), checkpoint={"buddy": True, "key_file": "keys/{silo}"})

    def rank(comm: Communicator) -> Any:
        return entry.train_or_rejoin(lambda silo, silos: config, Wanderer(), comm=comm, resume=False)

    assert len(run_in_threads(SILOS, rank, timeout_s=100)) == SILOS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "run"]
    assert (tmp_path / "run/summary.json").exists()
    assert configuration.load(tmp_path / "run/config.toml").run.dir == "run"


def test_a_lone_silo_is_told_that_it_is_alone(tmp_path: Path, capfd: Any) -> None:
    """As of many that a loop or GNU parallel starts, which set no variable that says so."""
    config = settings(tmp_path, run={"rounds": 1, "display": "plain"})
    run_in_threads(1, lambda comm: train(config, Changed(), comm=comm), timeout_s=100)
    assert (
        "note: updates are added up in the clear: one silo trains alone; start all" in capfd.readouterr().out
    )


def test_a_full_disk_is_noticed_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        written = 0

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            if self.written:  # an empty file needs no space
                raise OSError(errno.ENOSPC, "No space left on device")

        def write(self, data: bytes) -> None:
            self.written += len(data)

    monkeypatch.setattr(rundir.tempfile, "NamedTemporaryFile", lambda **given: Full())
    error = outcomes(settings(tmp_path), Unread())[0]
    assert isinstance(error, StorageError)
    assert str(error) == (
        f"cannot write {tmp_path}: No space left on device; free some space, or name another with --run"
    )


class Unread(Changed):
    """A task whose data must not be asked for."""

    def data(self, silo: int, silos: int) -> SiloData:
        raise AssertionError("data is read before the run directory is looked at")


def test_a_directory_that_holds_a_run_is_refused_before_data_is_read(run: Any, tmp_path: Path) -> None:
    for error in outcomes(run(), Unread()):
        assert isinstance(error, ConfigError)
        assert "already holds a run: add --resume" in str(error)
    start = Start(settings(tmp_path), 3)
    refuse_early(start, [1])  # one silo says it for all
    refuse_early(replace(start, resume=True), [0])
    with pytest.raises(ConfigError, match="already holds a run: add --resume"):
        refuse_early(start, [0])
