"""The wheel has two names at the top and works by itself; the source distribution has its tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from silofl.shipped import FOLDERS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that no earlier build is in it and this one leaves nothing behind."""
    source = tmp_path_factory.mktemp("package") / "source"
    unwanted = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=unwanted)
    return source


def built(source: Path, kind: str, pattern: str) -> Path:
    folder = source.parent / kind
    line = [
        sys.executable,
        "-m",
        "build",
        f"--{kind}",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(source),
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob(pattern))


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return built(source, "wheel", "*.whl")


@pytest.mark.long
def test_the_sdist_has_all_that_the_repository_has(source: Path) -> None:
    """So that its tests run."""
    with tarfile.open(built(source, "sdist", "*.tar.gz")) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    made_by_build = {"PKG-INFO", "setup.cfg"}
    ours = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    left_out = {name for name in ours - names if ".egg-info" not in name and "__pycache__" not in name}
    left_out -= {name for name in left_out if name.startswith("build/")}
    assert not left_out
    more = {name for name in names - ours if "." in Path(name).name and "egg-info" not in name}
    assert more <= made_by_build


def test_only_two_names_at_the_top_and_every_module_inside(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name and ".data/" not in name}
    assert tops == {"silofl", "silofl_kernels"}
    ours = {str(p.relative_to(ROOT)) for p in ROOT.glob("silofl/**/*.py")}
    ours |= {str(p.relative_to(ROOT / "kernels")) for p in ROOT.glob("kernels/**/*.py")}
    assert ours <= set(names)
    data = ("silofl/report/page/style.css", "silofl/report/page/template.html")
    assert {"silofl/py.typed", "silofl_kernels/py.typed", *data} <= set(names)


@pytest.mark.long
def test_it_imports_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """The wheel goes into a new environment, which borrows the libraries of this one and nothing of ours."""
    venv.create(tmp_path / "env", with_pip=False)
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    python = str(tmp_path / "env/bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, str(wheel)], timeout=100, env=env, check=True)
    borrow_libraries(site)
    code = (
        "import silofl, silofl_kernels, silofl.cli, silofl.federation.loop;"
        "print(silofl.__file__, silofl_kernels.__file__)"
    )
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, timeout=100, cwd=tmp_path, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(site)) == 2

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [str(tmp_path / "env/bin/silofl"), *words]
        return subprocess.run(
            line, capture_output=True, text=True, timeout=60, env=env, cwd=tmp_path, check=False
        )

    assert command("--version").stdout.strip() == version("silofl")
    examples = command("init", "examples", "mine")
    assert examples.returncode == 0, examples.stderr
    assert "next: cd mine && silofl check launch/digits.toml" in examples.stdout
    for folder in FOLDERS:
        ours = {path.name: path.read_bytes() for path in (ROOT / folder).iterdir() if path.is_file()}
        assert {path.name: path.read_bytes() for path in (tmp_path / "mine" / folder).iterdir()} == ours
    assert command("check", "mine/launch/digits.toml", "-n", "4").stdout.count("training samples") == 1


def borrow_libraries(site: Path) -> None:
    """Link every installed package but silofl, so that nothing is downloaded."""
    here = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    for entry in here.iterdir():
        if "silofl" not in entry.name and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
