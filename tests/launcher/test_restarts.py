"""Jobs that are restarted, and jobs that must not be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
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


def test_a_signal_that_comes_as_the_pause_begins_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python runs its handler when the wait is over, which says that nothing happened."""

    class Late(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            signal.raise_signal(signal.SIGTERM)
            return False

    monkeypatch.setattr(threading, "Event", Late)
    assert restarts._stop_requested_within(0.0)


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
