"""`silofl bench recovery`: what it makes of what it sees, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from silofl.bench import recovery
from silofl.bench.recovery import KILLED, ROUNDS, USUAL, Commit, Times, Watch, summarize, times_of
from silofl.comm.mpi_library import mpi_info
from silofl.errors import EXIT_BAD_INPUT, ConfigError, SiloflError
from silofl.launcher.mpi_info import MpiInfo

ULFM = MpiInfo("openmpi", "Open MPI", "5.0.11", None, ("/usr/bin/mpirun",), True, None, 2)
USUAL_WAY, BACK_AFTER = 0.7, 4.0


def federation(*, returns: bool) -> tuple[list[Commit], dict[int, float]]:
    """A round takes 0.5 s, its step is 0.7 s before its commit; the loss adds 0.3 s, the way back 4 s."""
    commits = [Commit(number, 4, 10 + number / 2) for number in range(1, KILLED)]
    marks = {number: 10 + number / 2 - USUAL_WAY for number in (*USUAL, KILLED)}
    lost = 10 + KILLED / 2 + 0.3
    commits.append(Commit(KILLED, 3, lost))
    if returns:
        commits.append(Commit(KILLED, 4, lost + BACK_AFTER))
    for further in range(1, ROUNDS - KILLED + 1):
        at = lost + further / 2 + (BACK_AFTER if returns else 0)
        commits.append(Commit(KILLED + further, 4 if returns else 3, at))
    return commits, marks


RECORDS = [
    {"round": number, "recovery_seconds": 0.04 * (number == KILLED)} for number in range(1, ROUNDS + 1)
]


def test_times_are_taken_from_the_kill_and_from_the_same_step_without_one() -> None:
    times = times_of(*federation(returns=False), RECORDS, 4, "shrink")
    assert times.round == pytest.approx(0.5)
    assert times.met == 0.04
    assert (times.commit, times.commit_without) == pytest.approx((USUAL_WAY + 0.3, USUAL_WAY))
    assert times.whole is None


def test_a_silo_is_back_with_the_next_round_of_all() -> None:
    times = times_of(*federation(returns=True), RECORDS, 4, "respawn")
    assert times.commit == pytest.approx(USUAL_WAY + 0.3)
    assert times.whole == pytest.approx(USUAL_WAY + 0.3 + BACK_AFTER + 0.5)
    assert times.whole_without == pytest.approx(USUAL_WAY + 0.5)


def test_a_round_that_was_not_seen_is_an_error() -> None:
    commits, marks = federation(returns=False)
    with pytest.raises(SiloflError, match="no round from 9 on has 4 silos"):
        times_of(commits, marks, RECORDS, 4, "respawn")  # nobody came back
    del marks[KILLED]
    with pytest.raises(SiloflError, match="in round 8"):
        times_of(commits, marks, RECORDS, 4, "shrink")


def test_what_a_loss_added_is_a_median_over_federations() -> None:
    times = [Times(0.5, 0.01, commit=1.0 + late, commit_without=0.8) for late in (0.0, 0.1, 9.0)]
    figure = summarize("shrink", times).figures[1]
    assert figure.added == pytest.approx(0.3)
    assert figure.goal == 1.0


def test_the_watch_sees_a_manifest_and_the_one_that_takes_its_place(tmp_path: Path) -> None:
    watch, folder = Watch(tmp_path, 4), tmp_path / "checkpoints" / "round-000003"
    watch.look()
    assert watch.commits == []
    folder.mkdir(parents=True)
    for members in ([0, 1, 3], [0, 1, 2, 3]):
        (folder / "new").write_text(json.dumps({"members": members}))
        (folder / "new").rename(folder / "manifest.json")
        watch.look()
        watch.look()
    assert [(one.round, one.silos) for one in watch.commits] == [(3, 3), (3, 4)]
    assert watch.commits[1].at == (folder / "manifest.json").stat().st_ctime


def test_the_watch_hears_injected_faults_alone(tmp_path: Path) -> None:
    watch = Watch(tmp_path, 4)
    watch.hear("silofl: injected fault: slow silo 2 in round 4 at collect first")
    watch.hear("silofl: injected fault: kill silo 2 in round 8 at collect first")
    watch.hear("  note: silo 2 failed in round 9; recovered in 0.00 s")
    assert list(watch.marks) == [4, 8]


@pytest.mark.parametrize(
    ("info", "silos", "inside", "sentence"),
    [
        (dataclasses.replace(ULFM, vendor="mpich", name="MPICH"), 4, False, "MPICH 5.0.11 survives"),
        (dataclasses.replace(ULFM, ulfm=False), 4, False, "Open MPI 5 or later"),
        (ULFM, 3, False, "-n 3 leaves too few"),
        (ULFM, 4, True, "without mpirun"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    info: MpiInfo, silos: int, inside: bool, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "mpi_info", lambda: info)
    for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"):
        monkeypatch.delenv(f"OMPI_COMM_WORLD_{name}", raising=False)
        if inside:
            monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", "1")
    with pytest.raises(ConfigError, match=sentence) as error:
        recovery.run(silos, repeats=1)
    assert error.value.exit_code == EXIT_BAD_INPUT


@pytest.mark.long
def test_it_measures_both_policies_and_leaves_nothing(tmp_path: Path) -> None:
    if not mpi_info().fault_tolerant:
        pytest.skip("this MPI library has no ULFM")
    done = subprocess.run(
        [sys.executable, "-m", "silofl", "bench", "recovery", "--repeats", "1", "--json", "figures.json"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=2 * recovery.LIMIT_S + 60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    policies = json.loads((tmp_path / "figures.json").read_text())["policies"]
    assert [one["policy"] for one in policies] == ["shrink", "respawn"]
    assert [len(one["figures"]) for one in policies] == [2, 3]
    assert all(figure["seconds"][0] > 0 for one in policies for figure in one["figures"])
    assert list(tmp_path.glob("silofl-recovery-*")) == []
