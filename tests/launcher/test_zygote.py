"""Ranks as forks of one process that has loaded everything: what they are, and how each ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.launcher.forks import READY, SLEEPS, begin, eventually, first_line, gone, outcome, program
from tests.warm.programs import ENDS, HEARS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="zygotes are Linux's")

SEEN = """
import json, os, random, resource, signal, sys, tempfile, time
print(json.dumps({
    "arguments": sys.argv, "path": sys.path, "folder": os.getcwd(), "executable": sys.executable,
    "environ": dict(os.environ), "umask": os.umask(0), "processors": sorted(os.sched_getaffinity(0)),
    "stdin": sys.stdin.read(), "temporary": tempfile.gettempdir(), "zone": time.tzname,
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "handled": [str(signal.getsignal(one)) for one in sorted(signal.valid_signals())],
    "descriptors": sorted(one for one in map(int, os.listdir("/proc/self/fd")) if one < 1000),
    "limits": [resource.getrlimit(one) for one in range(7)],
    "streams": [
        (one.encoding, one.errors, one.line_buffering, one.write_through, type(one.buffer).__name__)
        for one in (sys.stdin, sys.stdout, sys.stderr)
    ],
}), flush=True)
print("to", "stderr", file=sys.stderr)
"""


@pytest.mark.covering(0)
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_fork_is_what_the_process_was(
    forked: str, tmp_path: Path, environ: dict[str, str], unbuffered: bool
) -> None:
    cold = program(tmp_path, "cold", forks=False)
    environ |= {"TZ": "Asia/Tokyo", "TMPDIR": str(tmp_path), "NAME": "odd \udcff"}
    environ |= {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
    read, write = os.pipe()

    def before() -> None:
        os.umask(0o27)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})

    seen = []
    for one in (cold, forked):
        line = [one, "-c", SEEN, "a", "b c"]
        code, out, err = outcome(line, environ, cwd=tmp_path, preexec_fn=before, pass_fds=[read])
        assert (code, err) == (0, "to stderr\n")
        seen.append(json.loads(out))
    for end in (read, write):
        os.close(end)
    expected, found = seen
    libraries = {name for name in found["environ"] if name not in expected["environ"]}
    assert all(name.startswith("KMP_") for name in libraries), libraries
    found["environ"] = {name: found["environ"][name] for name in expected["environ"]}
    assert {key: (found[key], expected[key]) for key in found if found[key] != expected[key]} == {}
    assert read in found["descriptors"]


@pytest.mark.covering(1)
@pytest.mark.parametrize("ulfm", [True, False])
@pytest.mark.parametrize("how", ENDS)
def test_it_ends_as_the_rank_does(
    forked: str, tmp_path: Path, environ: dict[str, str], how: str, ulfm: bool
) -> None:
    cold = program(tmp_path, "cold", forks=False)
    environ |= {"ulfm": ""} if ulfm else {}
    ways = [
        outcome(
            [one, "-w", "-c", "from silofl.launcher import watchdog; watchdog.mpi_ready()\n" + ENDS[how]],
            environ,
        )
        for one in (cold, forked)
    ]
    assert ways[0][:2] == ways[1][:2]
    assert ways[0][2].splitlines()[-1:] == ways[1][2].splitlines()[-1:]


@pytest.mark.covering(0)
def test_signals_reach_the_rank(either: str, environ: dict[str, str]) -> None:
    process = begin([either, "-w", "-c", HEARS], environ)
    assert first_line(process) == "up\n"
    heard = ""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        send = os.killpg if number == signal.SIGINT else os.kill  # as a terminal and launchers do
        send(process.pid, number)
        before, heard = heard, first_line(process)
        while heard == before:  # all but SIGINT may come twice: by the group, and by the watchdog
            heard = first_line(process)
        assert heard == f"{number.name}\n"
    process.kill()
    process.communicate(timeout=30)


@pytest.mark.covering(0)
@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGSTOP])
def test_a_stop_stops_the_rank_and_it_goes_on(either: str, environ: dict[str, str], number: int) -> None:
    process = begin([either, "-w", "-c", SLEEPS], environ)
    rank = int(first_line(process))
    os.killpg(process.pid, number)  # as launchers do, which turn the one into the other
    assert eventually(lambda: state(rank) == "T", 20)
    assert os.waitpid(process.pid, os.WUNTRACED)[0] == process.pid, "its launcher does not see it stopped"
    os.killpg(process.pid, signal.SIGCONT)
    assert eventually(lambda: state(rank) != "T", 20)
    process.kill()
    process.communicate(timeout=30)
    assert gone(rank)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


STARTS_OTHERS = """
import os, subprocess, time
nothing = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
other = subprocess.Popen(["sleep", "60"], **nothing)
print(other.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.covering(0)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_rank_has_started_ends_with_a_job_that_is_ended(
    either: str, environ: dict[str, str], number: int
) -> None:
    process = begin([either, "-w", "-c", STARTS_OTHERS], environ)
    other = int(first_line(process))
    os.killpg(process.pid, number)
    process.communicate(timeout=30)
    assert gone(other)


@pytest.mark.covering(0)
def test_the_rank_dies_with_the_process_that_stands_for_it(either: str, environ: dict[str, str]) -> None:
    process = begin([either, "-w", "-c", SLEEPS], environ)
    rank = int(first_line(process))
    process.kill()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert gone(rank)


@pytest.mark.covering(0)
def test_it_dies_with_a_rank_that_is_killed(either: str, environ: dict[str, str]) -> None:
    process = begin([either, "-w", "-c", READY + SLEEPS], environ | {"ulfm": ""})
    os.kill(int(first_line(process)), signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.covering(0)
def test_a_rank_notices_that_its_launcher_is_gone(either: str, environ: dict[str, str]) -> None:
    launched = begin(["sh", "-c", '"$@" & wait', "sh", either, "-w", "-c", SLEEPS], environ)
    rank = int(first_line(launched))
    launched.kill()
    assert gone(rank)
    _, err = launched.communicate(timeout=30)
    assert "rank 0 lost its launcher before its first round: killed" in err
