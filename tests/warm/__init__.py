"""A Python that need not load anything: `WarmPython.executable` in place of `sys.executable`.

Ranks of silofl load torch, numba and what belongs to them, and that takes seconds of processor time for each.
A warm Python has loaded all of it once. It is a file that can be run as Python can: `python -m silofl ...`,
`python -c ...`, `python program.py ...`. What mpirun or a test then sees is a small process of its own
(`stub.py`), at whose word the warm process (`server.py`) forks. The fork gets the environment, folder,
arguments, descriptors, signals and processors of the small one, and each ends as the other does.

What a warm process cannot show: that all imports are there, that variables are set before libraries read
them, the garbage collector's part in a start, and ranks whose strings hash differently. Some tests of every
kind start cold for that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from silofl.launcher.environment import THREAD_VARIABLES

LOADING_S = 120.0
FOLDER = Path(__file__).parent
running: list[WarmPython] = []


def fork_of(pid: int) -> int | None:
    """The fork that a process stands for, if it is the small one of a warm Python."""
    for one in running:
        try:
            return int((one.forks / str(pid)).read_text())
        except (OSError, ValueError):
            continue
    return None


def spent() -> float:
    """Processor seconds of all that run: of the warm processes, and of their forks that have ended."""
    return sum(one.spent() for one in running)


class WarmPython:
    """A process that has loaded all that silofl loads, and the executable by which it forks.

    It ends with `stop`, or with the process that made it. What it starts has one thread of each library.
    """

    def __init__(self, folder: Path) -> None:
        self.executable = str(folder / "python")
        """Its folder holds the command `silofl`, too, as the folder of a Python does."""
        self.forks = folder / "forks"
        self.forks.mkdir()
        text = (FOLDER / "stub.py").read_text()
        for name in ("python", "silofl"):
            (folder / name).write_text(f"#!{sys.executable} -ISE\n{text}")
            (folder / name).chmod(0o755)
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                [sys.executable, str(FOLDER / "server.py"), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
                start_new_session=True,
            )
        assert self._server.stdout is not None
        if self._server.stdout.readline() != b"warm\n":
            self.stop()
            raise RuntimeError(f"the warm process did not start:\n{self._log.read_text()}")
        running.append(self)

    def stop(self) -> None:
        """End the warm process. Jobs that still run are not its own: end them first."""
        if self in running:
            running.remove(self)
        self._server.communicate(timeout=LOADING_S)

    def spent(self) -> float:
        """Processor seconds of the warm process and of all its forks that have ended."""
        fields = Path(f"/proc/{self._server.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
