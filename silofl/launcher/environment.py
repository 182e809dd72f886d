"""Environment variables of a rank: threads, yielding and the MPI library.

Nothing here imports MPI, NumPy or torch, so `prepare_environment` can run before any of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from silofl.launcher import machine
from silofl.launcher.detection import Launch, detect, launcher_executable, library_beside

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
RANK_VARIABLES = (
    *THREAD_VARIABLES,
    *("CUDA_VISIBLE_DEVICES", "HOME", "XDG_STATE_HOME", "PATH", "PYTHONPATH", "LD_LIBRARY_PATH"),
)
"""Variables with which a rank is started again: what it computes with, and where it finds its files. Told to
the other ranks, so none may hold a secret."""


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
    library = library_beside(launch)
    if library is not None and "MPI4PY_MPIABI" not in environ:
        wanted["MPI4PY_LIBMPI"] = library
    return {name: value for name, value in wanted.items() if name not in environ}


def prepare_environment(environ: MutableMapping[str, str] | None = None) -> Launch:
    """Set this process's variables by `plan_environment`; return its launcher, rank and size.

    Call it before NumPy, torch, numba or mpi4py are imported: they read their variables once.
    """
    environ = os.environ if environ is None else environ
    launch = detect(environ, launcher_executable())
    cores = {"shared_cores": machine.shared_cores(), "own_cores": machine.allowed_cores()}
    environ.update(plan_environment(launch, environ, **cores))
    return launch
