"""A warning that comes too early or too late does no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Start, descendants

PATIENCE_S = 60.0

LATE = """
import os, signal
from silofl.federation.stop import StopRequest

stop = StopRequest()
os.kill(os.getpid(), signal.SIGUSR1)
assert stop.asked
if {too_late}:
    stop.too_late()

class Last:  # deleted after Python has dropped its handlers of signals
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, 10)

last = Last()
"""


@pytest.mark.parametrize(("too_late", "code"), [(True, 0), (False, -signal.SIGUSR1)])
def test_a_warning_while_python_exits(too_late: bool, code: int) -> None:
    line = [sys.executable, "-c", LATE.format(too_late=too_late)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == code, done.stderr


def is_rank(pid: int) -> bool:
    """Whether mpirun has become Python in this process: until then it has mpirun's handlers."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(sys.executable.encode())
    except OSError:
        return False


def catches_warnings(pid: int) -> bool:
    """Whether a process has a handler for SIGUSR1."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGUSR1 - 1) & 1)


@pytest.mark.long
def test_a_warning_while_ranks_load_their_libraries(start: Start, quick: Path) -> None:
    job = start(1, "train", str(quick), "--run", "run", cold=True)
    deadline = time.monotonic() + PATIENCE_S
    ready: list[int] = []
    while not ready and time.monotonic() < deadline:
        time.sleep(0.002)
        ready = [pid for pid in descendants(job.process.pid) if is_rank(pid) and catches_warnings(pid)]
    assert "libtorch" not in Path(f"/proc/{ready[0]}/maps").read_text()
    os.kill(ready[0], signal.SIGUSR1)
    end = job.wait()
    assert end.code == 75, end.out + end.err
    assert "after round 1;" in end.err
