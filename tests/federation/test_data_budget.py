"""An institution's own budget: all runs on its data count, on disk before anything of it can be read."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from silofl import config as configuration
from silofl.cli import app
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config, PrivacyConfig
from silofl.errors import CheckpointError, ConfigError, MismatchError, SiloflError, StoppedError, StorageError
from silofl.federation import dry_run, handshake
from silofl.federation.budget_statement import statement_of_budget
from silofl.federation.early_checks import Start, refuse_early
from silofl.federation.loop import train
from silofl.federation.own_log import own_log_path
from silofl.federation.privacy.budget_file import BudgetFile
from silofl.federation.privacy.budget_place import budget_path
from silofl.federation.privacy.data_budget import DataBudget
from silofl.federation.privacy.release_log import ReleaseLog, log_path
from silofl.federation.rundir import pick
from silofl.privacy.accountant import epsilon
from silofl.privacy.releases import Release
from tests.campaigns import mostly_long
from tests.federation.test_privacy import LOCAL, SILOS, Plain, federate, lines, settings
from tests.federation.threads import prepare

ONE = Release("gaussian", 4.0, sampler="none")
RELEASES = ((ONE, 1),)


def budgeted(path: Path, name: str, budget: dict[str, Any] | None = None, **more: dict[str, Any]) -> Config:
    """A run of three rounds, with a budget file of each silo."""
    privacy = {"budget_dir": str(path / "budget-{silo}"), **(budget or {}), **more.pop("privacy", {})}
    run = {"rounds": 3, "dir": str(path / name), **more.pop("run", {})}
    return settings(path, run=run, privacy=privacy, **more)


def spent(path: Path, silo: int = 0) -> float:
    """Epsilon of all that a silo's file counts."""
    file = BudgetFile(path / f"budget-{silo}" / "data.budget.jsonl")
    file.update()
    assert file.spent is not None
    return epsilon(file.spent, 1e-5, "pld")


def of_rounds(path: Path, rounds: int) -> float:
    """Epsilon of so many rounds of the run that the first file there counts."""
    file = BudgetFile(path / "budget-0" / "data.budget.jsonl")
    file.update()
    assert file.spent is not None
    [(release, _)] = list(file.spent.items())
    return epsilon({release: rounds}, 1e-5, "pld")


@pytest.mark.long
@pytest.mark.parametrize("place", mostly_long(["distributed", "local", "central"], 0))
def test_all_runs_on_the_data_count_until_the_budget_is_spent(tmp_path: Path, place: str) -> None:
    more: dict[str, Any] = dict(LOCAL) if place == "local" else {}
    first = federate(budgeted(tmp_path, "a", privacy={"place": place}, **more))[0]
    assert spent(tmp_path) == spent(tmp_path, 3) == first["epsilon"]
    step = 3 if place == "local" else 1
    most = {"budget_epsilon": of_rounds(tmp_path, 5 * step) * 1.0001}
    second = federate(budgeted(tmp_path, "b", most, privacy={"place": place}, **more))
    assert {one["rounds"] for one in second} == {2}  # all end together, with what they have
    assert spent(tmp_path) <= most["budget_epsilon"]
    for error in federate(budgeted(tmp_path, "c", most, privacy={"place": place}, **more)):
        assert isinstance(error, ConfigError)
        assert "own budget for its data" in str(error)
    with pytest.raises(ConfigError, match="neither a run directory nor a budget file"):
        statement_of_budget(tmp_path / "a" / "config.toml")
    own = own_log_path(tmp_path / "c", 0).read_text()
    assert f"2 run(s) have spent epsilon {spent(tmp_path):.4g}" in own
    assert "raise it, or stop here" in own


def test_correlated_noise_is_refused_which_a_lost_silo_makes_dearer_afterwards(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.bands = 3 makes earlier rounds dearer.*budget_dir"):
        budgeted(tmp_path, "a", privacy={"bands": 3, "sample_rate": 0.1})


def test_one_silo_s_budget_ends_the_run_of_all_and_tells_them_no_number(tmp_path: Path) -> None:
    federate(budgeted(tmp_path, "a"))
    most = of_rounds(tmp_path, 4) * 1.0001
    configs = [
        budgeted(tmp_path, "b", {"budget_epsilon": most} if silo == 2 else {}) for silo in range(SILOS)
    ]
    found = of_configs(configs)
    assert [one["rounds"] for one in found] == [1] * SILOS
    other = {"dir": str(tmp_path / "c")}
    again = [one.model_copy(update={"run": one.run.model_copy(update=other)}) for one in configs]
    for error in of_configs(again):
        assert isinstance(error, ConfigError)
        assert error.rank == 2
        assert str(error).startswith("silo 2's own budget")
        assert f"{most:.3g}"[:3] not in str(error)
    assert not own_log_path(tmp_path / "c", 1).exists()


def of_configs(configs: list[Config]) -> list[Any]:
    def rank(comm: Communicator) -> Any:
        try:
            return train(configs[comm.rank], Plain(), comm=comm)
        except SiloflError as error:
            return error

    return run_in_threads(len(configs), rank, timeout_s=60)


def test_it_is_on_disk_before_the_sum_can_be_read_and_a_resume_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    inject = [f"kill silo {silo} round 4 at reveal" for silo in range(SILOS)]
    run, failure = {"rounds": 4}, {"policy": "abort", "inject": inject}
    federate(budgeted(tmp_path, "a", run=run, failure=failure))
    assert spent(tmp_path) == of_rounds(tmp_path, 4)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    exact = {"budget_epsilon": of_rounds(tmp_path, 4) * 1.0001}
    done = federate(budgeted(tmp_path, "a", exact, run=run | {"dir": str(tmp_path / "a")}), resume=True)[0]
    assert done["rounds"] == 4
    assert spent(tmp_path) == done["epsilon"] == of_rounds(tmp_path, 4)
    federate(budgeted(tmp_path, "copy", run=run), resume=True)
    assert spent(tmp_path) >= of_rounds(tmp_path, 5)  # a copy shows more


@pytest.mark.long
def test_a_run_that_another_one_leaves_no_room_stays_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federate(budgeted(tmp_path, "a"))
    most = {"budget_epsilon": of_rounds(tmp_path, 4) * 1.0001}
    monkeypatch.setattr(DataBudget, "over", lambda self, more: "")  # as if both had looked at once
    for error in federate(budgeted(tmp_path, "b", most)):
        assert isinstance(error, StoppedError)
        assert "no room for round 2, whose sum stays unread" in str(error)
    assert spent(tmp_path) == of_rounds(tmp_path, 4)
    assert len(log_path(tmp_path / "b", 0).read_text().splitlines()) == 2  # its head, and round 1


def budget(path: Path, most: float | None = None, **keys: Any) -> DataBudget:
    privacy = PrivacyConfig(
        **{"unit": "example", "noise_multiplier": 1.0, "budget_dir": str(path), "budget_epsilon": most} | keys
    )
    return DataBudget(privacy, "pld", "0" * 32, path, 0, b"data")


def test_two_runs_at_once_spend_no_more_than_there_is(tmp_path: Path) -> None:
    most, over = epsilon({ONE: 40}, 1e-5, "pld") * 1.0001, []

    def spend(run: int) -> None:
        own = budget(tmp_path, most)
        over.extend(own.spend((number, 0), f"run {run}", RELEASES) for number in range(15))

    threads = [threading.Thread(target=spend, args=(run,)) for run in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    file = BudgetFile(budget(tmp_path).file.path)
    file.update()
    assert file.spent == {ONE: 40}
    assert sum(not one for one in over) == 40
    assert (file.path.stat().st_mode & 0o777) == 0o600


def test_the_same_shown_again_counts_once_and_other_numbers_twice(tmp_path: Path) -> None:
    own = budget(tmp_path)
    for at, tag in (((1, 0), "a"), ((1, 0), "a"), ((1, 1), "a"), ((2, 0), "a"), ((1, 0), "b")):
        budget(tmp_path).spend(at, tag, RELEASES)
    own.add_shown(2, RELEASES)
    own.add_shown(2, RELEASES)
    own.file.update()
    assert own.file.spent == {ONE: 6}


def written(path: Path) -> Path:
    own = budget(path)
    for number in range(4):
        own.spend((number, 0), "a", RELEASES)
    return own.file.path


def edit(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return apply


def link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_suffix(".moved")))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILT: dict[str, tuple[Callable[[Path], None], type[SiloflError], str]] = {
    "a number": (
        edit(lambda all: [line.replace('multiplier\\": 4.0', 'multiplier\\": 9.0') for line in all]),
        CheckpointError,
        "line 2 is not as it was written",
    ),
    "a line gone": (edit(lambda all: all[:2] + all[3:]), CheckpointError, "line 3"),
    "no JSON": (edit(lambda all: [*all[:3], "x\n", *all[3:]]), CheckpointError, "line 4"),
    "no head": (edit(lambda all: all[1:]), CheckpointError, "first line"),
    "another format": (edit(lambda all: ['{"format": 2}\n', *all[1:]]), MismatchError, "format 2"),
    "a link": (link, StorageError, "cannot be opened"),
    "a folder": (folder, StorageError, "cannot be opened"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_of_a_damaged_file_nothing_is_brought(tmp_path: Path, how: str) -> None:
    path = written(tmp_path)
    spoil, kind, said = SPOILT[how]
    spoil(path)
    with pytest.raises(kind, match=r"^[^\n]*$") as caught:
        budget(tmp_path).spend((9, 0), "a", RELEASES)
    assert said in str(caught.value)
    with pytest.raises(kind):
        statement_of_budget(path) if path.is_file() else budget(tmp_path).over({ONE: 1})


def test_a_damaged_file_ends_the_run_of_all_before_anything_is_shown(tmp_path: Path) -> None:
    federate(budgeted(tmp_path, "a"))
    file = tmp_path / "budget-1" / "data.budget.jsonl"
    file.write_text(file.read_text().replace('"round": 2', '"round": 3'))
    for error in federate(budgeted(tmp_path, "b")):
        assert isinstance(error, CheckpointError)
        assert "is damaged" in str(error)
    assert not log_path(tmp_path / "b", 0).exists() or "tag" not in log_path(tmp_path / "b", 0).read_text()


def test_a_line_that_a_kill_tore_is_written_over(tmp_path: Path) -> None:
    path = written(tmp_path)
    with path.open("a") as file:
        file.write('{"run": "00')
    own = budget(tmp_path)
    own.spend((9, 0), "a", RELEASES)
    fresh = BudgetFile(path)
    fresh.update()
    assert fresh.spent == own.file.spent == {ONE: 5}


def test_what_does_not_add_up_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(ConfigError, match=r"example and replace-special.*silo and replace-special"):
        budget(tmp_path, unit="silo").spend((9, 0), "a", RELEASES)
    other = budget(tmp_path, unit="silo", budget_name="other")
    assert not other.spend((9, 0), "a", RELEASES)
    assert other.file.path.name == "other.budget.jsonl"
    with pytest.raises(ConfigError, match=r"budget_name = '\.\./x' is no name"):
        budget_path(PrivacyConfig(unit="example", budget_dir=str(tmp_path), budget_name="../x"))


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("file", r"silo 0: no budget file.*for it is no folder"),
        ("file/below", r"silo 0: no budget file.*file is no folder"),
        ("folder", r"silos 0 and 1 would both count in the budget file.*write \{silo\}"),
    ],
)
def test_a_folder_in_which_no_silo_can_count_alone_is_refused_before_anything_is_read(
    tmp_path: Path, folder: str, says: str
) -> None:
    (tmp_path / "file").write_text("")
    config = budgeted(tmp_path, "a", {"budget_dir": str(tmp_path / folder)})
    with pytest.raises(ConfigError, match=says):
        dry_run.dry_run(config, 2)
    with pytest.raises(ConfigError, match=says):
        refuse_early(Start(config, 2), range(2))
    assert not (tmp_path / "folder").exists()


def test_two_silos_of_a_run_that_write_one_file_are_refused(tmp_path: Path) -> None:
    """They need not share a machine for it: a folder that all see is enough."""
    config = budgeted(tmp_path, "a", {"budget_dir": str(tmp_path / "folder")})
    ended = federate(config)
    assert all(isinstance(error, SiloflError) for error in ended)
    assert any(re.search(r"silos \d and \d would both count in the budget file", str(one)) for one in ended)


def test_keys_of_a_budget_that_is_not_there_are_refused() -> None:
    for keys in ({"budget_epsilon": 1.0}, {"budget_name": "x"}, {"budget_dir": "x", "budget_delta": 1e-6}):
        with pytest.raises(ConfigError, match="set both, or remove"):
            configuration.parse({"privacy": {"unit": "silo", "noise_multiplier": 1.0, **keys}})


@pytest.mark.long
def test_the_statement_of_the_data_and_the_check_say_what_is_spent(tmp_path: Path) -> None:
    federate(budgeted(tmp_path, "a", run={"rounds": 2}))
    federate(budgeted(tmp_path, "b", run={"rounds": 1}))
    path = tmp_path / "budget-1" / "data.budget.jsonl"
    told = statement_of_budget(path).to_json()
    assert (told["runs"], told["releases"], told["fingerprints"]) == (2, 3, 1)
    assert told["against"]["silos"]["epsilon"] == spent(tmp_path, 1)
    assert told["against"]["observer"]["epsilon"] < spent(tmp_path, 1)
    done = CliRunner().invoke(app, ["privacy", str(path)])
    assert done.exit_code == 0
    assert "dp_accounting.dp_event.SelfComposedDpEvent" in done.output
    task = {"name": "breast_cancer", "model": "linear"}
    config = budgeted(tmp_path, "c", {"budget_epsilon": spent(tmp_path) * 1.01}, task=task)
    notes = [note for note in dry_run.dry_run(config, SILOS).notes if "run(s) have spent" in note]
    assert len(notes) == SILOS
    assert notes[1].startswith(
        f"silo 1: 2 run(s) have spent epsilon {spent(tmp_path, 1):.4g} of its data, with"
    )
    assert notes[1].endswith("it will end this run")
    assert len(lines_of(path)) == 4  # nothing was spent by that


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_after_a_run_that_was_refused_the_next_takes_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = configuration.parse({"run": {"name": "a"}})
    own = ReleaseLog(log_path(tmp_path / "runs" / "a", 0), "0" * 32)
    assert pick(config, resume=False) == "runs/a"
    own.repair()
    assert pick(config, resume=False) == "runs/a-2"


def test_what_a_silo_has_left_is_in_no_result(tmp_path: Path) -> None:
    summary = federate(budgeted(tmp_path, "run", {"budget_epsilon": 77.125}))[0]
    assert "77.125" not in json.dumps([summary, lines(tmp_path)])


def test_no_other_silo_is_sent_the_keys_of_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 tells its configuration, so that others may name what differs."""
    sent: list[Any] = []
    monkeypatch.setattr(handshake, "broadcast_parsed", lambda comm, mine, *more: sent.append(mine) or mine)
    keys = {"budget_dir": "/secure", "budget_epsilon": 77.125, "budget_name": "registry"}
    config = configuration.parse({"privacy": {"unit": "silo", "noise_multiplier": 1.0, **keys}})
    run_in_threads(1, lambda comm: handshake.agree_on_version_and_config(comm, config))
    assert sent[0]["config"]["privacy"]["unit"] == "silo"
    assert not any(text in json.dumps(sent) for text in ("77.125", "registry", "/secure"))
