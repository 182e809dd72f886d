"""`silofl privacy RUN`: of runs that ended or were killed, and of one silo's copy; damage is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from silofl import config as configuration
from silofl.cli import app
from silofl.errors import CheckpointError, ConfigError, MismatchError, SiloflError
from silofl.federation.run_statement import statement_of_run
from tests.federation.test_privacy import SILOS, federate, settings
from tests.federation.threads import prepare


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of three rounds, and its summary."""
    path = tmp_path_factory.mktemp("ended")
    return path / "run", federate(settings(path, run={"rounds": 3}, privacy={"metrics": "exact"}))[0]


@pytest.fixture
def copy(ended: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(ended[0], tmp_path / "copy"))


def stated(path: Path) -> dict[str, Any]:
    return statement_of_run(path).to_json()


@pytest.mark.long
def test_a_run_that_ended_states_what_its_summary_says(
    ended: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, summary = ended
    done = CliRunner().invoke(app, ["privacy", str(path), "--json", str(tmp_path / "statement.json")])
    assert done.exit_code == 0
    told = json.loads((tmp_path / "statement.json").read_text())
    assert {key: one["epsilon"] for key, one in told["against"].items()} == summary["epsilon_against"]
    assert told["rounds"] == 3
    assert any("held-out records" in line for line in told["outside"])
    python = CliRunner().invoke(app, ["privacy", str(path), "--python"]).output
    there: dict[str, Any] = {}
    exec(python, there)
    for key, epsilon in summary["epsilon_against"].items():
        assert 0.99 * epsilon < there[f"epsilon_{key}"] <= epsilon * (1 + 1e-6)


def test_one_silo_s_copy_says_the_same(copy: Path, ended: tuple[Path, dict[str, Any]]) -> None:
    for name in ("config.toml", "summary.json", "metrics.jsonl", "model.safetensors"):
        (copy / name).unlink()
    for silo in set(range(SILOS)) - {2}:
        shutil.rmtree(copy / f"silo-{silo:04d}")
        for file in copy.glob(f"checkpoints/*/silo-{silo:04d}*"):
            file.unlink()
    told = stated(copy)
    assert told["against"]["silos"]["epsilon"] == ended[1]["epsilon"]
    assert any("not in this directory" in line for line in told["outside"])


def test_a_killed_run_counts_what_it_was_about_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    inject = [f"kill silo {silo} round 3 at step" for silo in range(SILOS)]
    federate(settings(tmp_path, failure={"policy": "abort", "inject": inject}))
    told = stated(tmp_path / "run")
    assert 3 in told["rounds_perhaps_shown"]
    whole = federate(settings(tmp_path / "other", run={"rounds": 3}))[0]
    assert told["against"]["silos"]["epsilon"] == whole["epsilon"]
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # a run without checkpoints has its logs
    assert stated(tmp_path / "run")["against"]["silos"]["epsilon"] == whole["epsilon"]


def test_a_run_without_privacy_says_none(tmp_path: Path) -> None:
    config = configuration.parse({"run": {"name": "clear"}})
    (tmp_path / "config.toml").write_text(configuration.dump(config))
    done = CliRunner().invoke(app, ["privacy", str(tmp_path)])
    assert (done.exit_code, done.output.partition(":")[0]) == (0, "privacy")
    assert done.output.startswith("privacy: none")
    assert stated(tmp_path)["unit"] == "none"


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        (file,) = path.glob(name)
        text = file.read_text()
        assert change(text) != text
        file.write_text(change(text))

    return apply


def raised(text: str) -> str:
    table = json.loads(text)
    return json.dumps(table | {"epsilon": table["epsilon"] * 1.01})


def raised_line(text: str) -> str:
    *lines, last = text.splitlines()
    return "\n".join([*lines, raised(last)]) + "\n"


def truncated(path: Path) -> None:
    (file,) = path.glob("checkpoints/round-000003/silo-0001.safetensors")
    file.write_bytes(file.read_bytes()[:-1])


def unlinked(path: Path) -> None:
    for file in path.glob("checkpoints/round-000003/silo-*"):
        file.unlink()


def emptied(path: Path) -> None:
    for one in path.iterdir():
        shutil.rmtree(one) if one.is_dir() else one.unlink()


def log_only(path: Path) -> None:
    shutil.rmtree(path / "checkpoints")
    (path / "config.toml").unlink()


LOG, MANIFEST = "silo-0001/privacy.jsonl", "checkpoints/round-000003/manifest.json"
SPOILT: dict[str, tuple[Callable[[Path], None], type[SiloflError], str]] = {
    "no run": (emptied, ConfigError, "holds no run"),
    "logs alone": (log_only, ConfigError, "config.toml"),
    "a log's line": (edit(LOG, lambda text: text.replace('"round": 2', '"rou')), CheckpointError, "line 3"),
    "a log's number": (
        edit(LOG, lambda text: text.replace("gaussian", "laplace")),
        CheckpointError,
        "line 2 is damaged",
    ),
    "another log format": (edit(LOG, lambda text: text.replace(": 2,", ": 9,", 1)), MismatchError, "format"),
    "another run's log": (
        edit(LOG, lambda text: text.replace(json.loads(text.splitlines()[0])["run"], "0" * 32)),
        CheckpointError,
        "no record of one run",
    ),
    "a log with more": (
        edit(LOG, lambda text: text + text.splitlines()[-1].replace('"attempt": 0', '"attempt": 1') + "\n"),
        CheckpointError,
        "has more releases",
    ),
    "summary": (edit("summary.json", raised), CheckpointError, "summary.json says epsilon"),
    "no JSON": (edit("summary.json", lambda text: text[:-9]), CheckpointError, "summary.json is damaged"),
    "metrics": (edit("metrics.jsonl", raised_line), CheckpointError, "metrics.jsonl says epsilon"),
    "delta": (
        edit("config.toml", lambda text: text.replace("delta = 1e-05", "delta = 1e-04")),
        CheckpointError,
        "another [privacy]",
    ),
    "unit": (
        edit("config.toml", lambda text: text.replace("[privacy]", "[privacy]\nfuture = 1")),
        MismatchError,
        "another version",
    ),
    "log's round": (
        edit(LOG, lambda text: text.replace('"round": 1', '"round": "1"', 1)),
        CheckpointError,
        "is damaged: it is no release",
    ),
    "state": (truncated, CheckpointError, "is damaged"),
    "no state": (unlinked, CheckpointError, "no silo's file"),
    "manifest": (edit(MANIFEST, lambda text: text.replace("a", "b", 1)), CheckpointError, "is damaged"),
    "manifest's format": (
        edit(MANIFEST, lambda text: text.replace('"format": 3', '"format": 4')),
        MismatchError,
        "format 4",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_files_that_are_damaged_or_disagree_make_no_statement(copy: Path, how: str) -> None:
    spoil, kind, said = SPOILT[how]
    spoil(copy)
    with pytest.raises(kind, match=r"^[^\n]*$") as caught:
        statement_of_run(copy)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_line_that_a_kill_tore_let_nothing_be_shown(copy: Path) -> None:
    before = stated(copy)
    with (copy / LOG).open("a") as log:
        log.write('{"round": 4, "att')
    assert stated(copy) == before


def test_what_lies_beside_is_not_of_the_run(copy: Path) -> None:
    """A folder's copy by hand, and lines of metrics that no run of silofl wrote so."""
    before = stated(copy)
    (copy / "silo-0000.bak").mkdir()
    (copy / "silo-0000.bak" / "privacy.jsonl").write_text("{}")
    with (copy / "metrics.jsonl").open("a") as lines:
        lines.write('{"per_silo": 3}\n{"per_silo": null}\n')
    assert stated(copy) == before
