"""Programs whose processes are forks of a zygote of a test's own, and what tests see of them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT

SCRIPT = """#!{python}
import sys
sys.path[:] = [path for path in sys.path if path != {here!r}]
if {root!r} not in sys.path:
    sys.path.insert(0, {root!r})
from silofl.launcher.zygote import stub
stub.START = stub.START.replace(
    "from silofl.launcher.zygote.server import main",
    "from silofl.launcher.zygote import server\\n"
    "server.PRELOAD = server.COMMAND = 'tests.launcher.zygote_program'\\n"
    "server.LINGER_S = {linger_s}\\n"
    "main = server.main",
)
if {forks}:
    stub.take_place()
    print("cold", flush=True)
from tests.launcher import zygote_program
zygote_program.main()
"""


def program(folder: Path, name: str, *, forks: bool = True, linger_s: float = 1.0) -> str:
    path = folder / name
    text = SCRIPT.format(
        python=sys.executable, here=str(folder), root=str(ROOT), forks=forks, linger_s=linger_s
    )
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def zygotes(folder: Path) -> list[int]:
    """Processes whose environment is that of this test's zygote."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                line = (process / "cmdline").read_bytes()
                own = f"LC_SILOFL_TEST={folder}".encode() in (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if own and b"zygote import server" in line:
                found.append(int(process.name))
    return found


def eventually(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return False


def begin(line: list[str], environ: dict[str, str], **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        line,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def outcome(line: list[str], environ: dict[str, str], **options: object) -> tuple[int, str, str]:
    process = begin(line, environ, **options)
    out, err = process.communicate("given", timeout=60)
    return process.returncode, out, err


READY = "from silofl.launcher import watchdog; watchdog.mpi_ready()\n"
SLEEPS = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def gone(pid: int) -> bool:
    def ended() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    return eventually(ended, 20)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
