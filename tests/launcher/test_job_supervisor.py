"""A launcher that is asked to stop, that hangs, and whose parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

PARENT = """
import sys
from silofl.launcher import job_supervisor
job_supervisor.LAUNCHER_EXIT_TIMEOUT_S, job_supervisor.RANKS_READY_S = 1.0, float(sys.argv[2])
sys.exit(job_supervisor.supervise([sys.executable, "-c", sys.argv[1]]).code)
"""
STUBBORN = """
import os, signal, subprocess, sys, time
from pathlib import Path
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
Path("launcher").write_text(str(os.getpid()))
rank = subprocess.Popen(["sleep", "{rank_s}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("up", flush=True)
rank.wait()
print("MPI_ABORT was invoked on rank 0", file=sys.stderr, flush=True)
time.sleep(60)
"""
PRINTS_SIGNALS = """
import signal, sys
numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("up", flush=True)
for _ in range({count}):
    print(signal.Signals(signal.sigwait(numbers)).name, flush=True)
sys.exit(7)
"""


def start(folder: Path, launcher: str, *, ready_s: float = 0.0) -> subprocess.Popen[str]:
    """A supervisor whose launcher is up; its ranks are taken to handle signals after `ready_s` seconds."""
    job = subprocess.Popen(
        [sys.executable, "-c", PARENT, launcher, str(ready_s)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "up\n"
    return job


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ([signal.SIGINT], ["SIGUSR1"]),
        ([signal.SIGTERM], ["SIGUSR1"]),
        ([signal.SIGUSR1, signal.SIGUSR2], ["SIGUSR1", "SIGUSR2"]),
        ([signal.SIGTERM, signal.SIGTERM], ["SIGUSR1", "SIGTERM"]),
        ([signal.SIGUSR1, signal.SIGUSR1, signal.SIGINT], ["SIGUSR1", "SIGTERM"]),
    ],
)
def test_the_first_signal_requests_a_stop_and_the_second_ends_the_job(
    tmp_path: Path, sent: list[signal.Signals], received: list[str]
) -> None:
    job = start(tmp_path, PRINTS_SIGNALS.format(count=len(received)))
    assert job.stdout is not None
    lines = []
    for place, number in enumerate(sent):
        job.send_signal(number)
        if place < len(received) - 1 or place == len(sent) - 1:
            lines.append(job.stdout.readline().strip())
        else:
            time.sleep(0.5)  # one that is not forwarded
    _, err = job.communicate(timeout=30)
    assert lines == received
    assert job.returncode == 7
    assert ("a second signal stops now" in err) == (signal.SIGUSR1 not in sent)


UP = """
import os, signal, sys, time
from pathlib import Path
print("up", flush=True)
time.sleep(0.5)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
Path(os.environ["SILOFL_EXIT_STATUS"]).with_suffix(".mpi-ready").touch()
signal.sigwait([signal.SIGUSR1])
sys.exit(75)
"""


def test_a_stop_is_forwarded_once_ranks_handle_signals(tmp_path: Path) -> None:
    job = start(tmp_path, UP, ready_s=60.0)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=30)
    assert job.returncode == 75


@pytest.mark.covering(0)
@pytest.mark.parametrize(("exit_status", "code"), [("", 75), ("0", 0)])
def test_a_stopped_job_without_exit_status_can_be_resumed(
    tmp_path: Path, exit_status: str, code: int
) -> None:
    """Open MPI ends with 0 where ranks died before MPI knew of them."""
    write = f"Path(os.environ['SILOFL_EXIT_STATUS']).write_text({exit_status!r}); " if exit_status else ""
    job = start(
        tmp_path,
        "import os, signal; from pathlib import Path; signal.pthread_sigmask(0, [signal.SIGUSR1]); "
        f"print('up', flush=True); signal.sigwait([signal.SIGUSR1]); {write}",
    )
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=30)
    assert job.returncode == code


@pytest.mark.covering(0)
@pytest.mark.parametrize("rank_s", [0.5, 25])
def test_a_hung_launcher_is_killed(tmp_path: Path, rank_s: float) -> None:
    """Its ranks have ended, or it was sent SIGTERM."""
    job = start(tmp_path, STUBBORN.replace("{rank_s}", str(rank_s)))
    if rank_s > 20:
        job.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        job.send_signal(signal.SIGTERM)
    job.communicate(timeout=15)
    assert job.returncode == 128 + signal.SIGKILL


def test_a_job_whose_launcher_is_killed_can_be_resumed(tmp_path: Path) -> None:
    job = start(tmp_path, "import os; print('up', flush=True); os.kill(os.getpid(), 9)")
    _, err = job.communicate(timeout=15)
    assert (job.returncode, err) == (75, "silofl: the launcher was killed by SIGKILL, and the job with it\n")


def test_a_launcher_has_a_session_directory_of_its_own(tmp_path: Path) -> None:
    """One that was killed leaves files under its process number, in the way of the next with that number."""
    write = "open('directory', 'w').write(os.environ['PRTE_MCA_prte_local_tmpdir_base'])"
    start(tmp_path, f"import os; print('up'); {write}").communicate(timeout=15)
    folder = Path((tmp_path / "directory").read_text())
    assert folder.name.startswith("silofl-")
    assert not folder.exists()


def test_a_launcher_does_not_outlive_the_command(tmp_path: Path) -> None:
    job = start(tmp_path, STUBBORN.replace("SIG_IGN", "SIG_DFL").replace("{rank_s}", "25"))
    launcher = int((tmp_path / "launcher").read_text())
    job.kill()
    job.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError):
            if Path(f"/proc/{launcher}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.1)
                continue
        return
    pytest.fail("it is still there")


SPEAKS = """
import os, sys
path = os.environ["SILOFL_EXIT_STATUS"]
if sys.argv[1] == "ready":
    open(path + ".mpi-ready", "w")
elif sys.argv[1]:
    print("of a rank", file=sys.stderr)
    print("silofl-exit-status", path.split("/")[-2], sys.argv[1], file=sys.stderr)
sys.exit(int(sys.argv[2]))
"""
RANKS_TELL = """
import sys
from silofl.launcher.job_supervisor import supervise
print(*supervise([sys.executable, "-c", *sys.argv[1:]], ranks_tell=True))
"""


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("told", "code", "end"),
    [
        ("0", 0, "0 False"),
        ("", 0, "75 False"),
        ("0", 9, "0 False"),
        ("", 2, "2 False"),
        ("75 stop-requested", 0, "75 True"),
        ("", 255, "255 False"),  # it may not have started them
        ("ready", 255, "75 False"),
        ("ready", 2, "2 False"),
    ],
)
def test_a_launcher_that_ends_well_without_the_ranks_word_has_lost_a_host(
    told: str, code: int, end: str
) -> None:
    command = [sys.executable, "-c", RANKS_TELL, SPEAKS, told, str(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{end}\n"
    assert ("before the ranks had finished the run" in done.stderr) == (end == "75 False")
    assert "silofl-exit-status" not in done.stderr
    assert ("of a rank" in done.stderr) == (told not in {"", "ready"})
