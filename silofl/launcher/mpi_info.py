"""The MPI library of this machine: vendor, version, launchers and features."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from silofl.launcher import machine

Vendor = Literal["openmpi", "mpich", "other"]

OMPI_INFO_TIMEOUT_S = 10.0
MPICH_FAMILY = frozenset({"MPICH", "Intel MPI", "MVAPICH", "MVAPICH2", "Cray MPI", "Cray MPICH"})


@dataclass(frozen=True)
class MpiInfo:
    """MPI library that this Python loads, and its features; None where a feature cannot be read.

    `launchers` are the mpirun and mpiexec programs of that library's own prefix first, then of this Python's,
    then of PATH. `ulfm` tells whether fault tolerance is compiled in, `cuda_aware` whether GPU buffers are.
    """

    vendor: Vendor
    name: str
    version: str
    library: str | None
    launchers: tuple[str, ...]
    ulfm: bool | None
    cuda_aware: bool | None
    cores: int

    @property
    def fault_tolerant(self) -> bool:
        """Whether the launcher can keep survivors when a rank fails: Open MPI's `--with-ft ulfm`."""
        return self.vendor == "openmpi" and bool(self.ulfm)


def describe(name: str, version: tuple[int, ...], library: str | None) -> MpiInfo:
    """Describe the library at path `library` that mpi4py names `name`. Not collective."""
    launchers = find_launchers(library)
    vendor = vendor_of(name)
    return MpiInfo(
        vendor=vendor,
        name=name,
        version=".".join(map(str, version)),
        library=library,
        launchers=launchers,
        ulfm=_has_symbol(library, "MPIX_Comm_revoke"),
        cuda_aware=_cuda_of_openmpi(launchers) if vendor == "openmpi" else None,
        cores=machine.allowed_cores(),
    )


def vendor_of(name: str) -> Vendor:
    """Sort mpi4py's vendor name into the families whose launchers differ."""
    if name == "Open MPI":
        return "openmpi"
    return "mpich" if name in MPICH_FAMILY else "other"


def find_launchers(library: str | None) -> tuple[str, ...]:
    """Return existing mpirun and mpiexec paths: beside the library, in sys.prefix, then on PATH."""
    folders = [] if library is None else [Path(library).parent.parent / "bin"]
    folders.append(Path(sys.prefix) / "bin")
    paths = [folder / name for folder in folders for name in ("mpirun", "mpiexec")]
    found = [str(path) for path in paths if os.access(path, os.X_OK)]
    found += [path for name in ("mpirun", "mpiexec") if (path := shutil.which(name))]
    return tuple(dict.fromkeys(found))


def _has_symbol(library: str | None, name: str) -> bool | None:
    if library is None:
        return None
    try:
        return hasattr(ctypes.CDLL(library), name)
    except OSError:
        return None


def _cuda_of_openmpi(launchers: tuple[str, ...]) -> bool | None:
    """Ask the ompi_info beside the launcher whether GPU buffers are built in."""
    program = next((path for item in launchers if (path := Path(item).with_name("ompi_info")).exists()), None)
    if program is None:
        return None
    try:
        command = [str(program), "--parsable", "--all"]
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=OMPI_INFO_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return "mpi_built_with_cuda_support:value:true" in answer.stdout
