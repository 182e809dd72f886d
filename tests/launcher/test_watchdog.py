"""A rank and its watchdog: exit codes, deaths, silence, stops and signals of either."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from silofl.errors import EXIT_RESUMABLE
from silofl.launcher import process_tree, watchdog
from tests.conftest import descendants

LAUNCHER = """
import signal, subprocess, sys
from pathlib import Path
received = []
signal.signal(signal.SIGTERM, lambda *_: received.append("SIGTERM"))
code = subprocess.run(sys.argv[1:]).returncode
Path("received").write_text("".join(received) or str(code))
"""
PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
from silofl.launcher import process_tree, watchdog

def report(name, text):
    Path(name + ".part").write_text(str(text))
    os.rename(name + ".part", name)

{before}
watchdog.spawn_watchdog(2, survivors_go_on={survivors_go_on})
report("rank", os.getpid())
watchdog.mpi_ready()
{body}
"""

ROUND_5 = """
watchdog.start(silent_s=0.5, silo=7, resume="add --resume")
watchdog.report_round(5, 3)
"""
MAKES_PROGRESS = """
while True:
    watchdog.heartbeat()
    time.sleep(0.01)
"""
NOW = "; rounds up to 3 are certainly committed: add --resume\n"


class WatchedProgram:
    """A program under a watchdog; its files lie in `folder`."""

    def __init__(
        self,
        folder: Path,
        body: str,
        *,
        survivors_go_on: bool = False,
        before: str = "",
        launcher: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        code = PROGRAM.format(body=body, survivors_go_on=survivors_go_on, before=before)
        self.process = subprocess.Popen(
            [*launcher, sys.executable, "-c", code],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(watchdog.__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def read(self, name: str) -> str:
        """What the program has reported under `name`, once it has."""
        deadline = time.monotonic() + 20
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, f"the program never reported {name!r}"
            time.sleep(0.005)
        return (self.folder / name).read_text()

    def send(self, number: int) -> None:
        """A signal to the rank, not to its watchdog."""
        os.kill(int(self.read("rank")), number)

    def end(self) -> tuple[int, str]:
        """Exit code and standard error; nothing of the program may be left."""
        try:
            _, err = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            for pid in [*descendants(self.process.pid), self.process.pid, int(self.read("rank"))]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.communicate()
            pytest.fail("the program hung")
        assert not alive(int(self.read("rank")))
        return self.process.returncode, err


def alive(pid: int) -> bool:
    """Whether a process still runs a moment later; what is only waited for does not."""
    for _ in range(400):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state in {"Z", "X"}:
            return False
        time.sleep(0.005)
    return True


@pytest.mark.covering(0)
@pytest.mark.parametrize("code", [0, 1, 2, 74, 75, 130])
def test_the_ranks_exit_code_is_the_watchdogs(tmp_path: Path, code: int) -> None:
    assert WatchedProgram(tmp_path, f"sys.exit({code})").end() == (code, "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_where_survivors_go_on_the_watchdog_dies_of_the_same_signal(tmp_path: Path, number: int) -> None:
    program = f"{ROUND_5}\nos.kill(os.getpid(), {number:d})"
    assert WatchedProgram(tmp_path, program, survivors_go_on=True).end() == (-number, "")


def test_a_mirrored_crash_dumps_no_second_core(tmp_path: Path) -> None:
    """Where a rank's own crash leaves a core dump, its watchdog's does not."""
    before = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (65536, 65536))"
    job = WatchedProgram(tmp_path, "os.abort()", survivors_go_on=True, before=before)
    _, status = os.waitpid(job.process.pid, 0)
    assert os.WTERMSIG(status) == signal.SIGABRT
    assert not os.WCOREDUMP(status)


def test_where_no_survivor_goes_on_a_death_is_reported_in_one_line(tmp_path: Path) -> None:
    code, err = WatchedProgram(tmp_path, f"{ROUND_5}\nos.kill(os.getpid(), signal.SIGKILL)").end()
    assert code == EXIT_RESUMABLE
    assert err == f"silofl: silo 7 (rank 2) was killed by SIGKILL in round 5{NOW}"


def test_before_anything_is_committed_the_report_names_no_round(tmp_path: Path) -> None:
    _, err = WatchedProgram(tmp_path, "os.abort()").end()
    died = "silofl: rank 2 was killed by SIGABRT before its first round"
    assert err == f"{died}: start the same command again\n"
    tmp_path.joinpath("rank").unlink()
    body = ROUND_5.replace("report_round(5, 3)", "report_round(2, 0)") + "os.abort()"
    _, err = WatchedProgram(tmp_path, body).end()
    assert err == "silofl: silo 7 (rank 2) was killed by SIGABRT in round 2: add --resume\n"


SILENT = {
    "main thread sleeps": ("time.sleep(60)", "its main thread makes no progress"),
    "main thread spins": ("while True: pass", "its main thread makes no progress"),
    "another thread waits": (
        "def wait():\n    with watchdog.waiting(): time.sleep(60)\n"
        "threading.Thread(target=wait, daemon=True).start(); time.sleep(60)",
        "its main thread makes no progress",
    ),
    "waited before": (
        "with watchdog.waiting():\n    with watchdog.waiting(): pass\ntime.sleep(60)",
        "its main thread makes no progress",
    ),
    "holds the interpreter": (
        "import ctypes\nwith watchdog.waiting(): ctypes.PyDLL(None).sleep(60)",
        "none of its threads runs",
    ),
    "stops while it waits": (
        "with watchdog.waiting(): os.kill(os.getpid(), signal.SIGSTOP)",
        "stopped by a signal",
    ),
}


@pytest.mark.covering(0)
@pytest.mark.parametrize("why", SILENT)
def test_a_silent_rank_is_killed(tmp_path: Path, why: str) -> None:
    body, words = SILENT[why]
    code, err = WatchedProgram(tmp_path, ROUND_5 + body).end()
    assert code == EXIT_RESUMABLE
    assert err == f"silofl: silo 7 (rank 2) was silent for 0.5 s in round 5 ({words}): killed{NOW}"


def test_where_survivors_go_on_a_silent_rank_dies_of_sigkill(tmp_path: Path) -> None:
    code, err = WatchedProgram(tmp_path, f"{ROUND_5}time.sleep(60)", survivors_go_on=True).end()
    assert code == -signal.SIGKILL
    assert err.count("\n") == 1
    assert err.endswith("(its main thread makes no progress): killed\n")


def test_a_rank_that_is_stopped_before_its_first_round_is_killed(tmp_path: Path) -> None:
    body = ROUND_5.replace("watchdog.report_round(5, 3)", "") + "os.kill(os.getpid(), signal.SIGSTOP)"
    code, err = WatchedProgram(tmp_path, body).end()
    assert code == EXIT_RESUMABLE
    assert "before its first round (stopped by a signal): killed: add --resume" in err


@pytest.mark.covering(0)
@pytest.mark.parametrize("survivors_go_on", [False, True])
@pytest.mark.parametrize("how", ["time.sleep(60)", "os.kill(os.getpid(), signal.SIGSTOP)"])
def test_a_rank_that_is_not_ready_in_time_is_killed(tmp_path: Path, how: str, survivors_go_on: bool) -> None:
    body = f"with watchdog.ready_within(0.5):\n    {how}"
    code, err = WatchedProgram(tmp_path, body, survivors_go_on=survivors_go_on).end()
    assert code == (-signal.SIGKILL if survivors_go_on else EXIT_RESUMABLE)
    assert err.startswith("silofl: rank 2 was not ready after 0.5 s before its first round: killed")


@pytest.mark.parametrize("respawned", [False, True])
def test_a_death_before_mpi_is_ready_ends_the_job(tmp_path: Path, respawned: bool) -> None:
    """ULFM's launcher would let survivors wait in MPI_Init; for a respawned rank they have a time limit."""
    before = "watchdog.mpi_ready = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
    before += "os.environ['SILOFL_EXIT_STATUS'] = 'exit-status'\n"
    before += "os.environ[watchdog.RESPAWNED] = '1'\n" * respawned
    launcher = (sys.executable, "-c", LAUNCHER)
    job = WatchedProgram(tmp_path, "", survivors_go_on=True, before=before, launcher=launcher)
    _, err = job.end()
    received = (tmp_path / "received").read_text()
    if respawned:
        assert (received, err) == ("-9", "")
        assert not (tmp_path / "exit-status").exists()
    else:
        assert (
            err
            == "silofl: rank 2 was killed by SIGKILL before its first round: start the same command again\n"
        )
        assert received == "SIGTERM"
        assert (tmp_path / "exit-status").read_text() == "75"


BUSY = {
    "makes progress": f"{ROUND_5}\nfor _ in range(12): time.sleep(0.1); watchdog.heartbeat()",
    "waits": f"{ROUND_5}\nwith watchdog.waiting():\n    with watchdog.waiting(): pass\n    time.sleep(1.2)",
    "is still loading": f"{ROUND_5.replace('watchdog.report_round(5, 3)', '')}\ntime.sleep(1.2)",
    "has no limit": "watchdog.report_round(5, 3); time.sleep(1.2)",
    "has no limit any more": f"{ROUND_5}\nwatchdog.stop(); time.sleep(1.2)",
}


@pytest.mark.covering(0)
@pytest.mark.parametrize("why", BUSY)
def test_a_rank_that_is_busy_is_left_alone(tmp_path: Path, why: str) -> None:
    assert WatchedProgram(tmp_path, BUSY[why]).end() == (0, "")


def test_a_short_stop_does_nothing(tmp_path: Path) -> None:
    body = f"{ROUND_5}\nreport('ready', 1)\nfor _ in range(150): time.sleep(0.01); watchdog.heartbeat()"
    job = WatchedProgram(tmp_path, body)
    job.read("ready")
    for _ in range(3):
        job.send(signal.SIGSTOP)
        time.sleep(0.2)
        job.send(signal.SIGCONT)
        time.sleep(0.2)
    assert job.end() == (0, "")


def test_a_suspended_job_is_not_silent(tmp_path: Path) -> None:
    """SIGTSTP to the watchdog stops the rank, too; the time does not count; SIGCONT wakes both."""
    job = WatchedProgram(
        tmp_path, f"{ROUND_5}\nreport('ready', 1)\nwhile not os.path.exists('go'): watchdog.heartbeat()"
    )
    job.read("ready")
    os.kill(job.process.pid, signal.SIGTSTP)
    _, status = os.waitpid(job.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    time.sleep(1)
    state = Path(f"/proc/{job.read('rank')}/stat").read_text().rpartition(")")[2].split()[0]
    assert state == "T"
    os.kill(job.process.pid, signal.SIGCONT)
    (tmp_path / "go").touch()
    assert job.end() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_rank_dies_with_its_watchdog(tmp_path: Path, number: int) -> None:
    job = WatchedProgram(tmp_path, "time.sleep(60)")
    job.read("rank")
    os.kill(job.process.pid, number)
    assert job.end() == (-number, "")


def test_the_rank_is_killed_when_its_launcher_is_gone(tmp_path: Path) -> None:
    """Otherwise a rank whose mpirun was killed would train on."""
    body = f'{ROUND_5}open("in round 5", "w").close(){MAKES_PROGRESS}'
    job = WatchedProgram(tmp_path, body, launcher=("sh", "-c", '"$@"; exit', "sh"))
    job.read("in round 5")
    job.process.kill()
    code, err = job.end()
    assert (code, err) == (
        -signal.SIGKILL,
        f"silofl: silo 7 (rank 2) lost its launcher in round 5: killed{NOW}",
    )


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT]
)
def test_signals_to_the_watchdog_are_forwarded(tmp_path: Path, number: int) -> None:
    body = f"""
import queue
received = queue.SimpleQueue()
signal.signal({number:d}, lambda *_: received.put(1))
report("ready", 1)
for _ in range(150):
    if not received.empty():
        sys.exit(9)
    time.sleep(0.1)  # one long wait would not hear of a signal that came just before it
"""
    job = WatchedProgram(tmp_path, body)
    job.read("ready")
    subprocess.run(["kill", f"-{number:d}", str(job.process.pid)], check=True)
    assert job.end() == (9, "")


def test_a_forwarded_signal_that_the_rank_dies_of_is_not_reported(tmp_path: Path) -> None:
    job = WatchedProgram(tmp_path, "report('ready', 1); time.sleep(60)")
    job.read("ready")
    os.kill(job.process.pid, signal.SIGTERM)
    assert job.end() == (-signal.SIGTERM, "")


def test_the_rank_keeps_its_signals_and_descriptors_and_the_watchdog_none(tmp_path: Path) -> None:
    before = "masked = signal.pthread_sigmask(signal.SIG_BLOCK, ()); pipe = os.pipe()"
    body = """
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == masked
os.write(pipe[1], b"x")
while "0 1 2" != (kept := " ".join(sorted(os.listdir(f"/proc/{os.getppid()}/fd")))): time.sleep(0.01)
report("launcher", process_tree.launcher_pid())
"""
    job = WatchedProgram(tmp_path, body, before=before)
    assert job.end() == (0, "")
    assert int(job.read("launcher")) == os.getpid()


def test_without_a_watchdog_no_call_has_an_effect() -> None:
    assert not watchdog.has_watchdog()
    watchdog.start(silent_s=0.1, silo=0, resume="again")
    watchdog.report_round(1, 0)
    with watchdog.waiting(), watchdog.waiting():
        watchdog.heartbeat()
    time.sleep(0.3)
    watchdog.stop()
    assert process_tree.launcher_pid() == os.getppid()
