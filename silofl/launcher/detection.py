"""Detection of the launcher, rank and size of this process, before MPI exists.

Pure functions over environment variables and executables' paths. Nothing here imports MPI, NumPy or torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from silofl.errors import MismatchError
from silofl.launcher import process_tree

_OTHER_STARTERS = (
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("Horovod's launcher", "HOROVOD_RANK", "HOROVOD_SIZE"),
    ("MVAPICH's launcher", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
    ("flux run", "FLUX_TASK_RANK", "FLUX_JOB_SIZE"),
)
"""Starters of processes, with the variables in which each tells a process its rank and how many there are.
`accelerate launch`, DeepSpeed and `python -m torch.distributed.run` set torchrun's."""

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


class Started(NamedTuple):
    """How one of several processes was started that need not be ranks of one MPI job."""

    starter: str
    """For people."""
    rank: int
    """Its number, from 0."""
    size: int
    """How many were started."""
    variable: str
    """The environment variable that says how many."""


def started_by_other(environ: Mapping[str, str]) -> Started | None:
    """The starter other than MPI's or Slurm's that tells this process of its peers; None without one."""
    for starter, rank_variable, size_variable in _OTHER_STARTERS:
        rank, size = _number(environ, rank_variable), _number(environ, size_variable)
        if rank is not None and size is not None:
            return Started(starter, rank, size, size_variable)
    return None


def started_among(environ: Mapping[str, str], launch: Launch) -> Started | None:
    """How this process was started as one of several, by whatever launcher; None for one alone.

    An MPI launcher's word counts alone: variables of others may be what the job around it inherited.
    """
    if launch.launcher == "none":
        found = started_by_other(environ)
    else:
        name = {"slurm": "srun"}.get(launch.launcher, launch.executable or "mpirun")
        found = Started(name, launch.rank or 0, launch.size or 1, "")
    return found if found is not None and found.size > 1 else None


def slurm_tasks(environ: Mapping[str, str], launch: Launch) -> Started | None:
    """The tasks of the Slurm job around a process that no launcher started; None outside of a job."""
    found = _number(environ, "SLURM_NTASKS")
    if found is None or launch.launcher != "none":
        return None
    return Started("the Slurm job", 0, found, "SLURM_NTASKS")


def first_of_its_start(environ: Mapping[str, str]) -> bool:
    """Whether this process is the one of those that were started together that reports for all."""
    started = started_among(environ, detect(environ, launcher_executable()))
    return started is None or started.rank == 0


def refuse_several_launches(environ: Mapping[str, str]) -> None:
    """Raise MismatchError where a launcher started `silofl launch` itself more than once.

    Not for a shell that srun opened on a terminal: it has one task's variables, whatever the others do.
    """
    launch = detect(environ, launcher_executable())
    started = started_among(environ, launch)
    if started is not None and not (launch.launcher == "slurm" and sys.stdin.isatty()):
        raise MismatchError(
            f"{started.starter} started silofl launch {started.size} times, and each would start all ranks: "
            "start it once, by itself",
            rank=0,
        )


def on_one_node(environ: Mapping[str, str]) -> bool:
    """Whether mpirun, started here, starts all ranks here: a queue or a host file may give it other nodes."""
    nodes = _number(environ, "SLURM_JOB_NUM_NODES") or _number(environ, "SLURM_NNODES") or 1
    return nodes == 1 and not any(environ.get(name) for name in _HOST_LISTS)


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


_HOST_LISTS = (
    *("PBS_NODEFILE", "LSB_HOSTS", "LSB_MCPU_HOSTS", "LSB_DJOB_HOSTFILE", "PE_HOSTFILE", "HYDRA_HOST_FILE"),
    *("PRTE_MCA_prte_default_hostfile", "PRTE_MCA_hostfile", "OMPI_MCA_orte_default_hostfile"),
)
"""Variables with which queues and users tell mpirun of hosts."""

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
