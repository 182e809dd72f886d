"""Exit status of a job, which its ranks write to a file for `silofl launch`.

Open MPI 5 keeps a job going when a respawned rank fails, but its mpirun then exits with the code of that
death (open-mpi/ompi #13325); and with 0 where ranks died before they had initialised MPI.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

EXIT_STATUS = "SILOFL_EXIT_STATUS"
"""Environment variable with the file's path; unset without `silofl launch`."""
STOP_REQUESTED = "stop-requested"


def write_exit_status(exit_code: int, *, stop_requested: bool) -> None:
    """Write the job's exit code, and whether a signal requested the stop. For one rank, or a watchdog."""
    path = os.environ.get(EXIT_STATUS)
    if path:
        with suppress(OSError):  # the launcher runs on another node: its own exit code has to do
            Path(path).write_text(f"{exit_code} {STOP_REQUESTED}" if stop_requested else str(exit_code))


def read_exit_status(path: Path) -> tuple[int, bool] | None:
    """Exit code, and whether a signal requested the stop; None where no rank wrote them."""
    if not path.exists():
        return None
    code, _, suffix = path.read_text().partition(" ")
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
