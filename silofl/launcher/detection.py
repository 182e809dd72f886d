"""Detection of the launcher, rank and size of this process, before MPI exists.

Pure functions over environment variables and executables' paths. Nothing here imports MPI, NumPy or torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from silofl.launcher import process_tree

LauncherName = Literal["openmpi", "hydra", "slurm", "pmi", "none"]

_EXECUTABLES = ("prterun", "prted", "mpirun", "mpiexec", "orterun", "orted", "hydra", "slurmstepd", "srun")
_SONAMES = {
    "openmpi": ("libmpi.so.40",),
    "hydra": ("libmpi.so.12", "libmpich.so.12"),
}
_LIBRARY_FOLDERS = ("lib", "lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu")


@dataclass(frozen=True)
class Launch:
    """Launcher, rank and size of this process; None where the launcher does not set them.

    `executable` is the path of the launcher's own process.
    """

    launcher: LauncherName = "none"
    rank: int | None = None
    size: int | None = None
    local_rank: int | None = None
    local_size: int | None = None
    executable: str | None = None


def detect(environ: Mapping[str, str], executable: str | None = None) -> Launch:
    """Read the launcher's variables; `executable` selects one where those of two launchers are set."""
    for name, names in _order(executable):
        rank, size, local_rank, local_size = (_number(environ, variable) for variable in names)
        if None not in {rank, size, local_rank, local_size}:
            return Launch(name, rank, size, local_rank, local_size, executable)
    if "SLURM_STEP_ID" in environ and "SLURM_PROCID" in environ:
        return _slurm(environ, executable)
    rank, size = _number(environ, "PMI_RANK"), _number(environ, "PMI_SIZE")
    if rank is not None and size is not None:
        return Launch("pmi", rank, size, executable=executable)
    return Launch()


def launcher_executable() -> str | None:
    """Return the path of the nearest ancestor process that is MPI's or Slurm's launcher; None without one."""
    paths = process_tree.ancestor_executables()
    return next((path for path in paths if os.path.basename(path).startswith(_EXECUTABLES)), None)


def library_beside(launch: Launch) -> str | None:
    """Return libmpi in the prefix of the launcher's executable (`<prefix>/bin/prterun`), if there is one."""
    if launch.executable is None or launch.launcher not in _SONAMES:
        return None
    prefix = Path(launch.executable).parent.parent
    paths = (prefix / folder / name for folder in _LIBRARY_FOLDERS for name in _SONAMES[launch.launcher])
    return next((str(path) for path in paths if path.is_file()), None)


def fault_tolerance_enabled(environ: Mapping[str, str]) -> bool:
    """Return whether survivors can go on when a rank fails: Open MPI's `mpirun --with-ft ulfm`."""
    return environ.get("OMPI_MCA_mpi_ft_enable") == "1"


_VARIABLES: dict[LauncherName, tuple[str, str, str, str]] = {
    "openmpi": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "hydra": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}


def _order(executable: str | None) -> list[tuple[LauncherName, tuple[str, str, str, str]]]:
    entries = list(_VARIABLES.items())
    if executable is not None and os.path.basename(executable).startswith("hydra"):
        entries.reverse()
    return entries


def _number(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name, "")
    return int(value) if value.isdecimal() else None


def _slurm(environ: Mapping[str, str], executable: str | None) -> Launch:
    size = _number(environ, "SLURM_STEP_NUM_TASKS") or _number(environ, "SLURM_NTASKS")
    per_node = _slurm_tasks(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = _number(environ, "SLURM_NODEID") or 0
    local_size = per_node[node] if node < len(per_node) else None
    rank, local_rank = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_LOCALID")
    return Launch("slurm", rank, size, local_rank, local_size, executable)


def _slurm_tasks(text: str) -> list[int]:
    """Expand Slurm's `4(x2),3` to [4, 4, 3]."""
    tasks: list[int] = []
    for part in filter(None, text.split(",")):
        count, _, times = part.partition("(x")
        tasks += [int(count)] * int(times.rstrip(")") or 1)
    return tasks
