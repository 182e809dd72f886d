"""A killed run goes on bit for bit; a damaged checkpoint is found out; a full disk loses nothing."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ONE_THREAD, QUICK, Finished, Job, Start, launcher

SILOS = 3


def summary(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return content


def committed(path: Path) -> list[int]:
    return sorted(int(p.parent.name[6:]) for p in path.glob("checkpoints/round-*/manifest.json"))


def finish(start: Start, config: Path, run: str, *more: str, cold: bool = False) -> Finished:
    return start(SILOS, "train", str(config), "--run", run, *more, cold=cold).wait()


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, python: str) -> Path:
    """A folder with two finished runs: `whole` of six rounds, and `part` of the first four."""
    folder = tmp_path_factory.mktemp("earlier")
    config = folder / "quick.toml"
    config.write_text(QUICK)
    line, env = launcher("openmpi", SILOS)
    for run, rounds in (("whole", 6), ("part", 4)):
        command = [*line, python, "-m", "silofl", "train", str(config), "--run", run]
        done = Job([*command, "--set", f"run.rounds={rounds}"], folder, {**env, **ONE_THREAD}).wait()
        assert done.code == 0, done.err
    return folder


@pytest.fixture
def reference(earlier: Path) -> str:
    """The digest of the uninterrupted run."""
    digest: str = summary(earlier / "whole")["model_sha256"]
    return digest


@pytest.mark.long
def test_the_same_configuration_twice_gives_the_same_model(
    start: Start, quick: Path, tmp_path: Path, reference: str
) -> None:
    assert finish(start, quick, "again").code == 0
    assert summary(tmp_path / "again")["model_sha256"] == reference


@pytest.mark.parametrize("runs", [1, pytest.param(10, marks=pytest.mark.long)])
def test_killed_at_random_instants_and_resumed_bit_for_bit(
    start: Start, quick: Path, tmp_path: Path, runs: int
) -> None:
    """Two or five kills a run: between rounds, in a round, and while checkpoint files are written."""
    assert start(2, "train", str(quick), "--run", "whole").wait().code == 0
    reference = summary(tmp_path / "whole")["model_sha256"]
    inside_write, rng = 0, random.Random(runs)
    for attempt in range(runs):
        run = tmp_path / f"killed-{attempt}"
        for kill in range(5 if runs > 1 else 2):
            job = start(2, "train", str(quick), "--run", run.name, "--resume")
            before = committed(run)
            deadline = time.monotonic() + 60
            while committed(run) == before and job.process.poll() is None and time.monotonic() < deadline:
                if (attempt + kill) % 2 and any(run.glob("checkpoints/round-*/.silo-*.tmp")):
                    inside_write += 1
                    break  # a file is being written at this instant
                time.sleep(0.0002)
            else:
                time.sleep(rng.uniform(0.0, 0.02))
            job.kill()
            job.wait()
            if committed(run) and committed(run)[-1] == 6:
                break
        end = start(2, "train", str(quick), "--run", run.name, "--resume").wait()
        assert end.code == 0, end.err
        assert summary(run)["model_sha256"] == reference
        rounds = [json.loads(line)["round"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert rounds == [1, 2, 3, 4, 5, 6]
    assert inside_write >= 1 or runs == 1


@pytest.mark.long  # `tests/checkpoint` has damage of every kind, in one process
@pytest.mark.parametrize("damage", ["flipped", "truncated", "manifest"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    start: Start, quick: Path, tmp_path: Path, earlier: Path, reference: str, damage: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(earlier / "part", run)
    name = "manifest.json" if damage == "manifest" else "silo-0001.safetensors"
    target = run / "checkpoints/round-000004" / name
    content = bytearray(target.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        del content[len(content) // 2 :]
    target.write_bytes(content)
    end = finish(start, quick, "run", "--resume", cold=damage != "flipped")
    assert end.code == 0, end.err
    assert "from round 4" in end.out
    assert "note: the " in end.out
    assert "round 4" in next(line for line in end.out.splitlines() if "note:" in line)
    assert summary(run)["model_sha256"] == reference


@pytest.mark.long
def test_a_warning_signal_finishes_the_round_and_resumes(start: Start, quick: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = start(SILOS, "train", str(quick), "--run", "run", "--set", "run.rounds=100000")
    while len(committed(run)) < 3 and job.process.poll() is None:
        time.sleep(0.01)
    subprocess.run(["kill", "-USR1", str(job.process.pid)], check=True)
    end = job.wait()
    assert end.code == 75, end.err
    assert "--resume goes on" in end.err
    newest = committed(run)[-1]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["round"] == newest
    more = finish(start, quick, "run", "--resume", "--set", f"run.rounds={newest + 2}")
    assert more.code == 0, more.err
    assert f"from round {newest + 1}" in more.out


@pytest.mark.long
def test_a_full_disk_ends_in_one_sentence_with_the_last_round_intact(
    start: Start, quick: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        run = disk / "run"
        more = ["--set", "run.rounds=60", "--set", "checkpoint.keep=1000"]
        end = start(2, "train", str(quick), "--run", str(run), *more).wait()
        assert end.code == 74, end.out + end.err
        sentences = [line for line in end.err.splitlines() if line.startswith("silofl:")]
        assert len(sentences) == 1
        assert "No space left" in sentences[0]
        assert "free some space" in sentences[0]
        newest = committed(run)[-1]
        assert newest >= 2
        for path in run.glob("trace/*"):
            path.unlink()
        for number in range(1, newest):  # what a start writes before its first round has room then
            (run / f"checkpoints/round-{number:06d}/manifest.json").unlink()
            for path in run.glob(f"checkpoints/round-{number:06d}/*"):
                path.unlink()
        more += ["--set", f"run.rounds={newest}", "--resume"]
        again = start(2, "train", str(quick), "--run", str(run), *more).wait()
        assert again.code == 0, again.err
        assert f"from round {newest + 1}" in again.out
    finally:
        subprocess.run(["umount", str(disk)], check=False)
