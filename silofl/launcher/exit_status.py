"""Exit status of a job, which its ranks write to a file for `silofl launch`.

Open MPI 5 keeps a job going when a respawned rank fails, but its mpirun then exits with the code of that
death (open-mpi/ompi #13325); and with 0 where ranks died before they had initialised MPI, or a whole host
with its launcher daemon. A rank on a host where that file cannot be written tells it by its standard error,
in a line that `silofl launch` takes out.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

EXIT_STATUS = "SILOFL_EXIT_STATUS"
"""Environment variable with the file's path; unset without `silofl launch`."""
STOP_REQUESTED = "stop-requested"
_SPOKEN = "silofl-exit-status"


def write_exit_status(exit_code: int, *, stop_requested: bool) -> None:
    """Write the job's exit code, and whether a signal requested the stop. For one rank, or a watchdog."""
    path = os.environ.get(EXIT_STATUS)
    if not path:
        return
    text = f"{exit_code} {STOP_REQUESTED}" if stop_requested else str(exit_code)
    try:
        Path(path).write_text(text)
    except OSError:  # the launcher runs on another host
        with suppress(OSError):
            os.write(2, f"{_SPOKEN} {_job(Path(path))} {text}\n".encode())


def read_exit_status(path: Path) -> tuple[int, bool] | None:
    """Exit code, and whether a signal requested the stop; None where no rank wrote them."""
    return _parsed(path.read_text()) if path.exists() else None


def spoken_exit_status(line: bytes, path: Path) -> tuple[int, bool] | None:
    """The same of a line of standard error, in which a rank of this very job told it; None of another."""
    told = re.search(rf"{_SPOKEN} {re.escape(_job(path))} ([0-9]+(?: {STOP_REQUESTED})?)$".encode(), line)
    return _parsed(told[1].decode()) if told else None


def _job(path: Path) -> str:
    """A name that no other job has: that of the file's folder."""
    return path.parent.name


def _parsed(text: str) -> tuple[int, bool]:
    code, _, suffix = text.partition(" ")
    return int(code), suffix == STOP_REQUESTED


def write_mpi_ready() -> None:
    """Report, from one rank, that all ranks have initialised MPI and handle signals."""
    path = os.environ.get(EXIT_STATUS)
    if path:
        with suppress(OSError):
            mpi_ready_file(Path(path)).touch()


def mpi_ready_file(exit_status: Path) -> Path:
    """File beside the exit status that exists once all ranks have initialised MPI."""
    return exit_status.with_suffix(".mpi-ready")
