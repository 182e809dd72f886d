"""What the launcher tells a rank before MPI exists: pure functions over a mapping of variables.

Nothing here imports MPI, NumPy or torch, so `prepare_environment` can run before any of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Literal

from silofl.launcher import machine

LauncherName = Literal["openmpi", "hydra", "slurm", "pmi", "none"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


@dataclass(frozen=True)
class Launch:
    """How this process was started; None where the launcher does not say.

    `executable` is the launcher's own path, of the process that started this one.
    """

    launcher: LauncherName = "none"
    rank: int | None = None
    size: int | None = None
    local_rank: int | None = None
    local_size: int | None = None
    executable: str | None = None


def detect(environ: Mapping[str, str], executable: str | None = None) -> Launch:
    """Read the launcher's variables; `executable` decides where those of two launchers are set."""
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
    """Return the path of the nearest ancestor process that is an MPI launcher or Slurm's; None if none is."""
    names = ("prterun", "prted", "mpirun", "mpiexec", "orterun", "orted", "hydra", "slurmstepd", "srun")
    return next((path for path in machine.ancestors() if os.path.basename(path).startswith(names)), None)


def plan_threads(cores: int, local_size: int) -> int:
    """Return how many threads each of `local_size` ranks may run on `cores` shared cores: at least 1."""
    return max(1, cores // max(1, local_size))


def plan_environment(
    launch: Launch, environ: Mapping[str, str], *, shared_cores: int, own_cores: int
) -> dict[str, str]:
    """Return the variables that a rank needs and the user has not set; none without a launcher.

    Threads of BLAS, OpenMP and numba divide the node's `shared_cores` between local ranks, within the
    `own_cores` that this rank is bound to. Ranks that leave no core to spare yield while they wait in Open
    MPI. mpi4py is pointed at the launcher's own library.
    """
    if launch.launcher == "none":
        return {}
    local_size = launch.local_size or launch.size or 1
    threads = min(own_cores, plan_threads(shared_cores, local_size))
    wanted = dict.fromkeys(THREAD_VARIABLES, environ.get("OMP_NUM_THREADS", str(threads)))
    if 1 < local_size >= shared_cores:
        wanted["OMPI_MCA_mpi_yield_when_idle"] = "1"
    library = machine.library_beside(launch.executable, launch.launcher)
    if library is not None and "MPI4PY_MPIABI" not in environ:
        wanted["MPI4PY_LIBMPI"] = library
    return {name: value for name, value in wanted.items() if name not in environ}


def prepare_environment(environ: MutableMapping[str, str] | None = None) -> Launch:
    """Set this process's variables by `plan_environment` and return how it was started.

    Call it before NumPy, torch, numba or mpi4py are imported: they read their variables once.
    """
    environ = os.environ if environ is None else environ
    launch = detect(environ, launcher_executable())
    cores = {"shared_cores": machine.shared_cores(), "own_cores": machine.allowed_cores()}
    environ.update(plan_environment(launch, environ, **cores))
    return launch


def fault_tolerance_enabled(environ: Mapping[str, str]) -> bool:
    """Whether the launcher lets other ranks go on when one dies: Open MPI's `mpirun --with-ft ulfm`."""
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
