"""One job on several hosts: who is asked before it starts, and where ranks go when a host is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence

from silofl.console import log
from silofl.errors import ConfigError, StoppedError
from silofl.launcher.host_probe import LOST_TIMEOUT_S, PROBE_TIMEOUT_S, probe
from silofl.launcher.hosts import Host, without

KEEPALIVE_PROBES = 3
Line = Callable[[Sequence[Host]], list[str]]
"""The launcher's command on these hosts."""


def refuse_silent_hosts(hosts: Sequence[Host], program: str, environ: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError, before anything starts, for a host that does not answer or lacks the program."""
    answers = probe([host.name for host in hosts], program, environ, PROBE_TIMEOUT_S)
    if answers.silent:
        raise ConfigError(
            f"{_hosts(answers.silent)} not answer: each has to be reached from here without a password, as "
            f"by `ssh {answers.silent[0]} true`"
        )
    if answers.without_program:
        raise ConfigError(
            f"{_hosts(answers.without_program)} not have {program}: silofl has to be installed at the same "
            "path on every host"
        )


def resumed_line(
    hosts: Sequence[Host], program: str, line: Line, environ: Mapping[str, str] = os.environ
) -> list[str]:
    """The command of a restart on the hosts that answer now, with the silos of those that do not.

    Every silo is started: one whose host is lost runs beside the silos of its neighbours in the list. Raises
    StoppedError where no host answers.
    """
    answers = probe([host.name for host in hosts], program, environ, LOST_TIMEOUT_S)
    lost = [*answers.silent, *answers.without_program]
    left = without(hosts, lost)
    if not left:
        raise StoppedError("none of the hosts answers: start the same command with --resume when one does")
    if lost:
        log(f"{_hosts(lost)} not answer: all silos run on {', '.join(map(str, left))}")
    return line(left)


def notice_silence_within(seconds: float, environ: MutableMapping[str, str] = os.environ) -> None:
    """Have Open MPI's daemons take a connection among them for lost that answers nothing for so long.

    By TCP's keepalive, which Open MPI 5 asks for after 300 s; what the user has set stays. It is all that
    notices a link that is cut before ranks know each other.
    """
    half = max(1, round(seconds / 2))
    every = max(1, half // KEEPALIVE_PROBES)
    for name, value in (("time", half), ("intvl", every), ("probes", KEEPALIVE_PROBES)):
        environ.setdefault(f"PRTE_MCA_oob_tcp_keepalive_{name}", str(value))


def _hosts(names: Sequence[str]) -> str:
    return f"host {names[0]} does" if len(names) == 1 else f"hosts {', '.join(names)} do"
