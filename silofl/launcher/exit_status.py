"""How a job goes, told by its ranks to `silofl launch`, which runs their launcher: two files in its folder.

Open MPI 5 keeps a job going when a rank dies that was started again, but its mpirun then exits with the code
of that death (open-mpi/ompi #13325); and with 0 where ranks died before MPI knew of them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

EXIT_STATUS = "SILOFL_EXIT_STATUS"
"""Names the file for the note; unset where no `silofl launch` is there."""
ASKED = "asked"


def write_exit_status(exit_code: int, *, asked: bool) -> None:
    """Note, as the leader of the ranks that met a last time, how the job ends, and if somebody wanted it."""
    path = os.environ.get(EXIT_STATUS)
    if path:
        with suppress(OSError):  # the launcher runs on another node: its own code has to do
            Path(path).write_text(f"{exit_code} {ASKED}" if asked else str(exit_code))


def read_exit_status(path: Path) -> tuple[int, bool] | None:
    """Exit code, and whether somebody wanted it; None without a note."""
    if not path.exists():
        return None
    code, _, asked = path.read_text().partition(" ")
    return int(code), asked == ASKED


def write_mpi_ready() -> None:
    """Note, as the leader, that all ranks have met and hear signals."""
    path = os.environ.get(EXIT_STATUS)
    if path:
        with suppress(OSError):
            mpi_ready_file(Path(path)).touch()


def mpi_ready_file(note: Path) -> Path:
    """The file beside the note that says that all ranks have met."""
    return note.with_suffix(".up")
