"""A warm Python is to its starter what a Python is: every test runs under both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ONE_THREAD, descendants, launcher
from tests.warm.programs import ENDS, HEARS

SEEN = """
import gc, json, os, signal, sys
print(json.dumps({
    "arguments": sys.argv, "path": sys.path, "folder": os.getcwd(), "name": __name__,
    "environ": {n: one for n, one in os.environ.items() if n[:3] not in ("KMP", "TOR", "SIL")},
    "processors": sorted(os.sched_getaffinity(0)), "stdin": sys.stdin.read(),
    "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), "collects": gc.isenabled(),
    "descriptors": sorted(set(os.listdir("/proc/self/fd")) - {"3"}),
    "streams": [
        (one.encoding, one.errors, one.line_buffering, one.write_through, type(one.buffer).__name__)
        for one in (sys.stdin, sys.stdout, sys.stderr)
    ],
    "started": sys.executable == sys.orig_argv[0], "again": sys.orig_argv[1:],
}), flush=True)
print("to", "stderr", file=sys.stderr)
"""


@pytest.fixture(params=["cold", "warm"])
def either(request: pytest.FixtureRequest, python: str) -> str:
    return python if request.param == "warm" else sys.executable


def begin(python: str, *arguments: str, folder: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, *arguments],
        env={**os.environ, **ONE_THREAD},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )


def outcome(python: str, *arguments: str, folder: Path | None = None) -> tuple[int, str, str]:
    process = begin(python, *arguments, folder=folder)
    out, err = process.communicate("given", timeout=30)
    return process.returncode, out, err.replace("\r", "")


@pytest.mark.parametrize("how", ["-c", "-m", "file"])
def test_a_program_sees_the_same(python: str, tmp_path: Path, how: str) -> None:
    (tmp_path / "program.py").write_text(SEEN)
    given = {"-c": ["-c", SEEN], "-m": ["-m", "program"], "file": [str(tmp_path / "program.py")]}[how]
    cold, warm = (outcome(one, *given, "a", "b c", folder=tmp_path) for one in (sys.executable, python))
    assert (warm[0], warm[2]) == (cold[0], cold[2]) == (0, "to stderr\n")
    seen, expected = (json.loads(out) for _, out, _ in (warm, cold))
    assert {key: seen[key] for key in seen if seen[key] != expected[key]} == {}


@pytest.mark.parametrize("how", ENDS)
def test_it_ends_as_the_program_does(python: str, how: str) -> None:
    (code, out, err), warm = (outcome(one, "-c", ENDS[how]) for one in (sys.executable, python))
    assert warm[:2] == (code, out)
    assert warm[2].splitlines()[-1:] == err.splitlines()[-1:]


def test_signals_reach_the_program(either: str) -> None:
    process = begin(either, "-c", HEARS)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
        line = process.stdout.readline()
        assert line == f"{number.name}\n", process.communicate(timeout=30) if not line else ""
    process.kill()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


def test_a_program_that_is_stopped_goes_on(either: str) -> None:
    process = begin(either, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=30)
    assert process.returncode == 0


def eventually(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.01)
    return False


def ended(pid: int) -> bool:
    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    return eventually(gone, seconds=20)


SLEEPS = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def test_the_program_is_among_the_descendants_and_dies_when_killed(either: str) -> None:
    process = begin(either, "-c", SLEEPS)
    assert process.stdout is not None
    program = int(process.stdout.readline())
    # The kernel's list of children may lack some while others come and go (proc(5)).
    assert eventually(lambda: program in {process.pid, *descendants(process.pid)}, seconds=10)
    process.kill()
    process.communicate(timeout=30)
    assert ended(program)


PARENTLESS = """
import os, time
parent = os.getppid()
print(os.getpid(), flush=True)
while os.getppid() == parent:
    time.sleep(0.01)
"""


def test_it_notices_that_its_launcher_is_gone(either: str) -> None:
    script = '"$@" & wait'
    launched = begin("sh", "-c", script, "sh", either, "-c", PARENTLESS)
    assert launched.stdout is not None
    program = int(launched.stdout.readline())
    launched.kill()
    assert ended(program)
    launched.communicate(timeout=30)


def test_an_environment_that_was_read_already_is_refused(python: str) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [python, "-c", "pass"], env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "NUMBA_NUM_THREADS" in done.stderr
    assert "start this one cold" in done.stderr


@pytest.mark.parametrize("vendor", ["openmpi", "mpich"])
def test_ranks_find_their_launcher(python: str, vendor: str, tmp_path: Path) -> None:
    code = (
        "import os; from silofl.launcher.environment import prepare_environment\n"
        "found = prepare_environment()\n"
        "told = f\"{found.launcher} {found.size} {found.executable} {os.environ['MPI4PY_LIBMPI']}\"\n"
        "os.write(1, told.encode() + b'\\n')"  # at once, or ranks mix their lines
    )
    line, env = launcher(vendor, 2)
    told = [
        subprocess.run(
            [*line, one, "-c", code],
            env={**env, **ONE_THREAD},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for one in (sys.executable, python)
    ]
    assert told[0] == told[1]
    assert told[0].count("2") >= 2
