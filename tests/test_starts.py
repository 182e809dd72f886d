"""`silofl init` writes what `silofl check` accepts, and writes over nothing."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from silofl import config as configuration
from silofl.cli import app
from silofl.config import reference
from silofl.errors import ConfigError
from silofl.starts import STARTS
from tests.campaigns import mostly_long


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("kind", mostly_long(list(STARTS), 0))
def test_a_start_is_accepted_and_trains(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("my_task", None)
    done = call("init", kind)
    assert done.exit_code == 0, done.exception
    assert "next: silofl check silofl.toml" in done.output
    checked = call("check", "silofl.toml")
    assert checked.exit_code == 0, checked.exception
    assert "20 rounds" in checked.output
    text = Path("silofl.toml").read_text()
    assert text.startswith("#:schema ./silofl-schema.json\n")
    assert Path("silofl-schema.json").is_file()
    assert max(map(len, text.splitlines())) <= 110
    validate = pytest.importorskip("jsonschema").validate
    validate(tomllib.loads(text), reference.schema())
    again = call("init", kind)
    assert isinstance(again.exception, ConfigError)
    assert "silofl.toml is there, and nothing is written over" in str(again.exception)


def test_the_privacy_that_a_start_has_as_a_comment_is_accepted(tmp_path: Path) -> None:
    call("init", "tables", str(tmp_path / "new"))
    lines = (tmp_path / "new" / "silofl.toml").read_text().splitlines()
    private = lines[next(k for k, line in enumerate(lines) if line.startswith("# [privacy]")) :]
    tables = tomllib.loads("\n".join([*lines, *(line.removeprefix("# ") for line in private)]))
    for key in ("epochs", "batch_size", "optimizer", "lr", "momentum"):
        tables["train"].pop(key)
    tables["strategy"]["name"] = "fedsgd"
    tables["data"]["bounds"] = {"*": [0, 200]}
    tables.pop("institution")
    tables["data"]["path"] = "data/{silo}.csv"
    assert configuration.parse(tables).privacy.target_epsilon == 3.0


def test_an_unknown_start_is_refused() -> None:
    assert "there is no start 'table': take tables, images, task" in str(call("init", "table").exception)
