"""Jobs that are restarted, and jobs that must not be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from silofl.launcher import restarts
from silofl.launcher.restarts import supervise_restarts

JOB = """
import os, pathlib, sys
count = pathlib.Path("count")
number = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(number))
pathlib.Path("arguments").open("a").write(" ".join(sys.argv[2:]) + ";")
code, _, stop = sys.argv[1].split(",")[number - 1].partition(" ")
if stop:
    pathlib.Path(os.environ["SILOFL_EXIT_STATUS"]).write_text(f"{code} {stop}")
sys.exit(int(code))
"""


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("codes", "most", "end", "starts"),
    [
        ("0", 3, 0, 1),
        ("75,0", 3, 0, 2),
        ("75,75,2", 3, 2, 3),
        ("75,75,75,75,0", 3, 75, 4),
        ("75,0", 0, 75, 1),
        ("74,0", 3, 74, 1),
        ("75 stop-requested,0", 3, 75, 1),
        ("75,75 stop-requested,0", 3, 75, 2),
    ],
)
def test_a_job_is_restarted_where_it_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: str, most: int, end: int, starts: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(restarts, "PAUSES_S", (0.0,))
    first = [sys.executable, "-c", JOB, codes, "first"]
    assert supervise_restarts(first, [*first[:-1], "resumed"], most) == end
    assert (tmp_path / "arguments").read_text() == ";".join(["first"] + ["resumed"] * (starts - 1)) + ";"


def test_a_signal_that_came_before_the_pause_is_not_lost() -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        signal.raise_signal(signal.SIGTERM)
        assert restarts._stop_requested_within(0.0)
        assert not restarts._stop_requested_within(0.0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


WARNED = """
import signal, sys
from silofl.__main__ import main
from silofl.comm import mpi_library
from silofl.launcher import restarts

def warned(work):
    def do(*given, **named):
        signal.raise_signal(signal.SIGUSR1)
        done = work(*given)
        signal.raise_signal(signal.SIGUSR1)
        return done
    return do

UNBLOCKED = "import signal, sys; sys.exit(1 if signal.SIGUSR1 in signal.pthread_sigmask(0, []) else 75)"
job = [sys.executable, "-c", UNBLOCKED]
mpi_library.mpi_info = warned(mpi_library.mpi_info)
real = restarts.supervise_restarts
restarts.supervise_restarts = warned(lambda *_: real(job, job, 0))
main()
"""


@pytest.mark.long
def test_a_warning_before_and_after_the_job_kills_no_launch(tmp_path: Path) -> None:
    """And the job, which is to be asked to stop, has it not blocked."""
    config = tmp_path / "run.toml"
    config.write_text('[run]\nname = "digits"\n')
    done = subprocess.run(
        [sys.executable, "-c", WARNED, "launch", str(config), "--run", str(tmp_path / "run")],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 75, done.stderr


WAITING = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("up", flush=True)
signal.sigwait([signal.SIGUSR1])
sys.exit(75)
"""
AT_ONCE = "import sys; print('up', flush=True); sys.exit(75)"
PARENT = """
import sys
from silofl.launcher import restarts
restarts.PAUSES_S = (20.0,)
job = [sys.executable, "-c", sys.argv[1]]
sys.exit(restarts.supervise_restarts(job, job, 3))
"""


@pytest.mark.parametrize("body", [WAITING, AT_ONCE], ids=["while it runs", "before the next"])
def test_a_job_that_was_asked_to_stop_is_not_restarted(body: str) -> None:
    command = [sys.executable, "-c", PARENT, body]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout is not None
    assert job.stderr is not None
    assert job.stdout.readline() == "up\n"
    if body == AT_ONCE:
        assert "restarting the job" in job.stderr.readline()
        time.sleep(0.5)  # into the pause
    os.kill(job.pid, signal.SIGUSR1)
    out, _ = job.communicate(timeout=30)
    assert (job.returncode, out) == (75, "")
