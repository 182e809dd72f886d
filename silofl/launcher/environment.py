"""Environment variables of a rank: threads, yielding and the MPI library.

Nothing here imports MPI, NumPy or torch, so `prepare_environment` can run before any of them.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from silofl.errors import ConfigError
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
_NUMBERS = {
    "OMP_NUM_THREADS": r"0*[1-9][0-9]{0,4}(\s*,\s*0*[1-9][0-9]{0,4})*",
    "NUMBA_NUM_THREADS": r"0*[1-9][0-9]{0,4}",
}
PLANNED = "SILOFL_PLANNED_THREADS"
"""Environment variable with the number of threads that this program chose; unset where the user did."""
RANK_VARIABLES = (
    *(*THREAD_VARIABLES, PLANNED),
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
    given = given_threads(environ)
    wanted = dict.fromkeys(THREAD_VARIABLES, str(given or threads))
    wanted |= {PLANNED: str(threads)} if given is None else {}
    if 1 < local_size >= shared_cores:
        wanted["OMPI_MCA_mpi_yield_when_idle"] = "1"
    library = library_beside(launch)
    if library is not None and "MPI4PY_MPIABI" not in environ:
        wanted["MPI4PY_LIBMPI"] = library
    return {name: value for name, value in wanted.items() if not environ.get(name, "").strip()}


def given_threads(environ: Mapping[str, str]) -> int | None:
    """The user's OMP_NUM_THREADS, of a list such as 4,3,2 (one number a nesting level) the first; None unset.

    Raises ConfigError for what OpenMP or numba take for no number: one ignores it and takes every core.
    """
    for name, pattern in _NUMBERS.items():
        text = environ.get(name, "").strip()
        if text and not re.fullmatch(pattern, text):
            raise ConfigError(f"{name}={text} is no number of threads: set one from 1 on, or unset it")
    first = environ.get("OMP_NUM_THREADS", "").strip().partition(",")[0]
    return int(first) if first else None


def planned_threads(environ: Mapping[str, str]) -> int | None:
    """How many threads this program chose for its rank; None where the user set them."""
    text = environ.get(PLANNED, "")
    return int(text) if text and text == environ.get("OMP_NUM_THREADS") else None


def home_folder(environ: Mapping[str, str]) -> str:
    """HOME, or where it is unset, as under some service managers, that of the user's account.

    Open MPI does not start without one. Where the account has none, it is the folder for temporary files.
    """
    if environ.get("HOME"):
        return environ["HOME"]
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container that runs under any number
        return environ.get("TMPDIR") or "/tmp"


def prepare_environment(environ: MutableMapping[str, str] | None = None) -> Launch:
    """Set this process's variables by `plan_environment`; return its launcher, rank and size.

    Call it before NumPy, torch, numba or mpi4py are imported: they read their variables once. ConfigError for
    a number of threads that is none.
    """
    environ = os.environ if environ is None else environ
    launch = detect(environ, launcher_executable())
    given_threads(environ)
    environ["HOME"] = home_folder(environ)
    cores = {"shared_cores": machine.shared_cores(), "own_cores": machine.allowed_cores()}
    environ.update(plan_environment(launch, environ, **cores))
    return launch


def environment_of_ranks(environ: Mapping[str, str], launchers: Sequence[str]) -> dict[str, str]:
    """`environ` as ranks of this machine will have it, as far as libraries are found by it.

    Open MPI's launcher puts the folder of its own libraries before what LD_LIBRARY_PATH has.
    """
    found = dict(environ)
    program = Path(launchers[0]) if launchers else None
    if program is not None and (program.parent / "prterun").exists():
        own = [path for path in (environ.get("LD_LIBRARY_PATH"),) if path]
        found["LD_LIBRARY_PATH"] = ":".join([str(program.parent.parent / "lib"), *own])
    return found
