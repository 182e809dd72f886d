"""What `silofl report` reads: plain files of a run, and one sentence where there are none."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from silofl.cli import app
from silofl.errors import DataError, MissingDependencyError
from silofl.report.page.shared_files import read_run
from tests.report.synthetic_run import write_run

LINE = '{"round": 1, "metrics": {"loss": 1.0}}\n'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.jsonl", "no JSON\n", "line 1"),
        ("metrics.jsonl", '{"round": 1, "survivors": "all"}\n', "line 1"),
        ("metrics.jsonl", '{"round": 1, "metrics": {"loss": NaN}}\n', "line 1"),
        ("metrics.jsonl", LINE + LINE, "line 2"),
        ("metrics.jsonl", '{"round": 1, "survivors": [1000000000]}\n', "line 1"),
        ("metrics.jsonl", "[" * 100_000 + "\n", "line 1"),
        ("metrics.jsonl", '{"round": 1, "seconds": 1e999}\n', "line 1"),
        ("metrics.jsonl", '{"round": 1, "metrics": {"x": [["<b>"]]}}\n', "line 1"),
        ("metrics.jsonl", '{"round": 1, "metrics": {"x": 1e999}}\n', "line 1"),
        ("cross-site.json", '[{"model": "a", "data": "b", "metrics": {"x": ["y"]}}]', "half written"),
        ("config.toml", "[run\n", "no TOML"),
        ("config.toml", "run = 3\n", "outside of sections"),
        ("summary.json", '{"silos": ', "half written"),
        ("summary.json", "[]", "half written"),
        ("cross-site.json", '{"model": 1}', "half written"),
        ("environment.json", '{"versions": [1]}', "half written"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = write_run(tmp_path / "run")
    (path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name}.*{said}"):
        read_run(path)


def test_neither_links_nor_pipes_are_followed(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    (tmp_path / "secret").write_text("[run]\nname = 'mine'\n")
    (path / "config.toml").unlink()
    (path / "config.toml").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="toml cannot be read"):
        read_run(path)
    (path / "config.toml").unlink()
    os.mkfifo(path / "config.toml")
    with pytest.raises(DataError, match="no plain file"):
        read_run(path)


def test_an_older_run_lacks_what_is_new(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    (path / "metrics.jsonl").write_text(LINE)
    (path / "summary.json").write_text(json.dumps({"rounds": 1, "other": [1]}))
    found = read_run(path)
    assert found.rounds[0].means == {"loss": 1.0}
    assert not found.environment
    assert found.summary is not None
    assert not found.remarks
    (path / "config.toml").unlink()
    assert "config.toml is missing" in read_run(path).remarks[0]


@pytest.mark.parametrize("what", ["nowhere", "empty", "file"])
def test_no_run_is_one_sentence(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, ["report", str(tmp_path / what), "-o", str(tmp_path / "out.html")])
    assert isinstance(done.exception, DataError)
    assert done.exception.exit_code == 2
    assert str(tmp_path / what) in str(done.exception)
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_a_library_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    path = write_run(tmp_path / "run", 1, 2)
    done = CliRunner().invoke(app, ["report", str(path), "-o", str(tmp_path / "out.html")])
    assert isinstance(done.exception, MissingDependencyError)
    assert f"{library}, which is not installed: pip install 'silofl[report]'" in str(done.exception)


def test_the_page_is_not_written_over_the_run(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    before = (path / "metrics.jsonl").read_bytes()
    done = CliRunner().invoke(app, ["report", str(path), "-o", str(path / "metrics.jsonl")])
    assert "would be lost" in str(done.exception)
    assert (path / "metrics.jsonl").read_bytes() == before
    done = CliRunner().invoke(app, ["report", str(path), "-o", str(tmp_path / "out.html")])
    assert done.exit_code == 0, done.exception
    assert (tmp_path / "out.html").read_text().startswith("<!DOCTYPE html>")


def test_nothing_but_a_page_is_written_over(tmp_path: Path) -> None:
    path, table = write_run(tmp_path / "run"), tmp_path / "table.csv"
    table.write_text("age\n1\n")
    done = CliRunner().invoke(app, ["report", str(path), "-o", str(table)])
    assert "is no page that could be written anew" in str(done.exception)
    assert table.read_text() == "age\n1\n"
    for _ in range(2):
        page = CliRunner().invoke(app, ["report", str(path), "-o", str(tmp_path / "page.html")])
        assert page.exit_code == 0, page.exception
