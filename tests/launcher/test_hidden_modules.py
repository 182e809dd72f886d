"""A user's files that are called like modules of Python or of packages."""

import os
import subprocess
import sys

import pytest

from silofl.launcher import command
from tests.conftest import ROOT

NAMES = ["random", "queue", "numbers", "statistics", "numpy", "pydantic"]
REMEDY = "which silofl or a library of it needs: rename it, or take its folder out of PYTHONPATH"
QUICK = '[run]\nrounds = 1\n[task]\nname = "synthetic"\nmodel = "linear"\n'


def check(folder, *flags, path=()):
    (folder / "quick.toml").write_text(QUICK)
    done = subprocess.run(
        [sys.executable, *flags, "-m", "silofl", "check", "quick.toml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*path, str(ROOT), str(ROOT / "kernels")])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.long
def test_files_of_the_current_folder_hide_nothing(tmp_path):
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("x = 1\n")
    assert check(tmp_path) == (0, "")


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("name", "text", "owner"),
    [
        ("random", "x = 1\n", "Python"),
        ("queue", "import nothing_like_this\n", "Python"),
        ("pydantic", "x = 1\n", "an installed package"),
    ],
)
def test_a_folder_of_pythonpath_that_hides_a_module_is_named(tmp_path, name, text, owner):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / f"{name}.py").write_text(text)
    code, err = check(tmp_path, path=[str(folder)])
    assert code == 2
    assert err == f"silofl: {folder}/{name}.py hides the module {name} of {owner}, {REMEDY}\n"


def test_an_import_that_fails_of_something_else_stays_what_it_is(tmp_path):
    """A module of the user's own name hides nothing."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['silofl.cli'] = None\n")
    code, err = check(tmp_path, path=[str(tmp_path)])
    assert code == 1
    assert "silofl.cli" in err.splitlines()[-1]


def test_a_current_folder_that_was_removed_is_one_sentence(tmp_path):
    line = f'mkdir gone; cd gone; rmdir ../gone; exec "{sys.executable}" -m silofl check quick.toml'
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "silofl: the current folder was removed: go to one that is there\n"


def test_ranks_start_without_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.python_command() == [sys.executable, "-P", "-m", "silofl"]
    monkeypatch.chdir(ROOT)  # where it may be the only place that has silofl
    assert command.python_command() == [sys.executable, "-m", "silofl"]
