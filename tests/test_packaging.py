"""The wheel: two names at the top, everything inside, importable where nothing else is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, so that no earlier build is in it and this one leaves nothing behind
    unwanted = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=unwanted)
    line = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_only_two_names_at_the_top_and_every_module_inside(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
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
    command = subprocess.run(
        [str(tmp_path / "env/bin/silofl"), "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
        check=False,
    )
    assert command.stdout.strip() == version("silofl")


def borrow_libraries(site: Path) -> None:
    """Link every installed package but silofl, so that nothing is downloaded."""
    here = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    for entry in here.iterdir():
        if "silofl" not in entry.name and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
