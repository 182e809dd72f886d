"""Runs of `[[institution]]`: every rank takes its own entry, also when it comes back, and on its own host."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from silofl.cli import app
from silofl.config.settings import load
from silofl.errors import SiloflError
from silofl.federation.dry_run import dry_run
from silofl.federation.dry_run_silos import DryRunSilos
from tests.conftest import ROOT, Start
from tests.on_hosts import silofl_there


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """launch/institutions.toml as it is, with a file of another kind and length for each institution."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    (tmp_path / "data").mkdir()
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch/institutions.toml", tmp_path / "launch")
    rng = np.random.default_rng(0)
    for silo, name in enumerate(("north.csv", "harbour.parquet", "valley.npz")):
        x = rng.standard_normal((300 + 20 * silo, 2)).astype(np.float32)
        words = np.where(x.sum(1) > 0, "malignant", "benign")
        table = pa.table({"age": x[:, 0], "size": x[:, 1], "diagnosis": words})
        path = tmp_path / "data" / name
        if name.endswith("csv"):
            csv.write_csv(table, path)
        elif name.endswith("parquet"):
            parquet.write_table(table, path)
        else:
            np.savez(path, x=x, diagnosis=words)
    return tmp_path


def with_hosts(folder: Path, *hosts: str) -> Path:
    """The configuration with a host for each institution."""
    path = folder / "launch/institutions.toml"
    head, *entries = path.read_text().split("[[institution]]\n")
    entries = [f'[[institution]]\nhost = "{host}"\n{one}' for host, one in zip(hosts, entries, strict=True)]
    path.write_text(head + "".join(entries))
    return path


@dataclass
class Done:
    """A command that was called in this process."""

    returncode: int
    stdout: str
    stderr: str


def silofl(folder: Path, *words: str) -> Done:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(app, list(words))
    error = done.exception
    if isinstance(error, SiloflError):
        return Done(error.exit_code, done.stdout, f"{error}\n")
    return Done(done.exit_code, done.stdout, done.stderr)


def test_a_rank_takes_its_own_entry_and_again_when_it_comes_back(start: Start, folder: Path) -> None:
    fault = 'failure.inject=["kill silo 2 round 2 at step"]'
    more = ["--set", fault, "--set", "secure.protocol=plain", "--set", "run.rounds=8"]
    job = start(3, "train", "launch/institutions.toml", "--run", "run", *more, ulfm=True)
    end = job.wait()
    assert end.code == 0, end.err
    summary = json.loads((folder / "run/summary.json").read_text())
    assert summary["accuracy"] > 0.85
    assert summary["failed"] == [[2, 2]]
    assert summary["survivors"] == [0, 1, 2]  # with the data that it began with, or it would stay away
    again = start(
        3, "train", "launch/institutions.toml", "--run", "run", *more[2:-1], "run.rounds=9", "--resume"
    )
    end = again.wait()
    assert end.code == 0, end.err  # silo 2's columns have no names, which are no others
    assert json.loads((folder / "run/summary.json").read_text())["rounds"] == 9
    assert 'path = "data/north.csv"' in (folder / "run/config.toml").read_text()


def test_another_number_of_ranks_is_refused_by_all(start: Start, folder: Path) -> None:
    end = start(2, "train", "launch/institutions.toml").wait()
    assert end.code == 2
    assert end.err.count("has 3 institutions and there are to be 2 silos: start 3 ranks, or") == 1


def test_check_looks_at_every_institutions_own_data(folder: Path) -> None:
    settings = load(folder / "launch/institutions.toml", [f"run.dir={folder / 'run'}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found = dry_run(settings.of(0), 3, None, settings.own, settings.institutions)
        rows = [(row.silo, row.name, row.train_samples + row.test_samples) for row in found.silos]
        assert rows == [(0, "north", 300), (1, "harbour", 320), (2, "valley", 340)]
        assert found.columns == "age, size (numbers)"
        (folder / "data/valley.npz").rename(folder / "valley.npz")
        elsewhere = load(with_hosts(folder, "localhost", "localhost", "valley.invalid"))
        found = dry_run(elsewhere.of(0), 3, None, elsewhere.own, elsewhere.institutions)
    assert [row.name for row in found.silos] == ["north", "harbour"]
    assert found.notes[0].startswith("silo 2: the data of valley is on valley.invalid and not seen from here")


@pytest.mark.parametrize("ranks", [(1, 2, 3), (2, 2, 2)])
def test_check_tells_ranks_and_devices_of_every_institution(
    folder: Path, ranks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_hosts(folder, "localhost", "localhost", "valley.invalid")
    head, *entries = path.read_text().split("[[institution]]\n")
    entries = [
        f"[[institution]]\ntrain.ranks_per_silo = {count}\n{one}"
        for count, one in zip(ranks, entries, strict=True)
    ]
    path.write_text(head + "".join(entries))
    done = silofl(folder, "check", "launch/institutions.toml")
    assert done.returncode == 0, done.stderr
    titles, *rows = [line.split("  ") for line in done.stdout.splitlines()[:4]]
    several = len(set(ranks)) > 1
    assert ("ranks" in [word.strip() for word in titles]) == several
    shown = [[word.strip() for word in row if word.strip()][1:4] for row in rows]
    for row, name, count in zip(shown, ("north", "harbour", "valley"), ranks, strict=True):
        assert row[:2] == [name, str(count)] if several else row[:2] == [name, "cpu"]
    said = "as many ranks as stand beside it" if several else "2 ranks"
    assert f"each silo trains with {said}, each on its part of every batch" in done.stdout

    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.chdir(folder)
    every = load(path)
    silos = DryRunSilos(every.of(0), 3, every.own, every.institutions)
    expected = {(1, 2, 3): [[0], [2, 3], [0, 1, 2]], (2, 2, 2): [[0, 1], [2, 3], [0, 1]]}[ranks]
    assert [[f"cuda:{one}" for one in row] for row in expected] == [[*silos.devices(k)] for k in range(3)]


def test_check_refuses_what_contradicts_one_institutions_own_settings(folder: Path) -> None:
    path = folder / "launch/institutions.toml"
    path.write_text(
        path.read_text().replace('name = "valley"\n', 'name = "valley"\nsecure.passphrase_file = "p"\n')
    )
    done = silofl(folder, "check", "launch/institutions.toml")
    assert done.returncode == 2
    assert "secure.passphrase_file" in done.stderr


def test_a_file_that_is_missing_is_one_sentence_of_every_command(folder: Path) -> None:
    (folder / "data/harbour.parquet").unlink()
    for command in ("check", "launch"):
        done = silofl(folder, command, "launch/institutions.toml")
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert "harbour.parquet" in done.stderr


def test_lines_and_jobs_count_institutions(folder: Path) -> None:
    done = silofl(folder, "launch", "launch/institutions.toml", "--dry-run")
    assert " -n 3 " in done.stdout
    done = silofl(folder, "launch", "launch/institutions.toml", "--dry-run", "-n", "4")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has 3 institutions and there are to be 4 silos: leave out -n" in done.stderr
    done = silofl(folder, "submit", "launch/institutions.toml", "--dry-run")
    assert "#SBATCH --ntasks=3\n" in done.stdout
    with_hosts(folder, "localhost", "b.invalid", "localhost")
    done = silofl(folder, "launch", "launch/institutions.toml", "--dry-run")
    places = [word for word in done.stdout.split() if word.endswith(":1")]
    assert places == ["localhost:1", "b.invalid:1", "localhost:1"]
    assert done.stdout.count(" : -n 1 --host ") == 2
    done = silofl(folder, "submit", "launch/institutions.toml", "--dry-run")
    assert done.returncode == 2
    assert "a queue places silos itself" in done.stderr


@pytest.mark.long
@pytest.mark.timeout(400)
def test_institutions_on_two_hosts_train_the_model_of_one(hosts: Any, start: Start, folder: Path) -> None:
    """In an order that goes back and forth; a silo that dies comes back on its host, with its own data."""
    silo = 2
    more = ["--set", "run.rounds=8", "--set", "secure.protocol=plain"]
    assert start(3, "train", "launch/institutions.toml", "--run", "one", *more).wait(100).code == 0
    first, second = hosts.ADDRESSES[:2]
    with_hosts(folder, first, second, first)
    fault = f'failure.inject=["kill silo {silo} round 2 at step"]'
    with hosts.two_hosts(1000.0) as both:
        words = ["launch", "launch/institutions.toml", "--run", "two", *more, "--set", fault]
        done = silofl_there(hosts, both, *words, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (json.loads((folder / name / "summary.json").read_text()) for name in ("one", "two"))
    assert two["failed"] == [[2, silo]]
    assert two["survivors"] == [0, 1, 2]
    assert two["model_sha256"] == one["model_sha256"]
    log = (folder / f"two/silo-{silo:04d}/log.txt").read_text()
    assert log.count(f" on {both.names[silo % 2]}\n") == 2  # before and after
