"""One job on several hosts: who is asked before it starts, and where ranks go when a host is lost."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence

from silofl.console import log
from silofl.errors import EXIT_BAD_INPUT, EXIT_RESUMABLE, ConfigError, StoppedError
from silofl.launcher.host_probe import LOST_TIMEOUT_S, PROBE_TIMEOUT_S, Answers, probe
from silofl.launcher.hosts import Host, is_local, seats_without, without

KEEPALIVE_PROBES = 3
THIS_HOST = "localhost"
NO_HOST = "no host answers: start the same command with --resume when one does"
Line = Callable[[Sequence[Host]], list[str]]
"""The launcher's command on these hosts."""


class Cluster:
    """The hosts of one job: `Restarted` on those that answer, by what `line` gives for them.

    `program` has to be at the same path on each. Silos are `movable` to another host but where only theirs
    has their data: then `line_without` gives the command that leaves out some, by their numbers, on hosts in
    the order of all; None where the job waits for their hosts.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        program: str,
        line: Line,
        environ: Mapping[str, str] = os.environ,
        *,
        movable: bool = True,
        line_without: Callable[[Sequence[Host], Sequence[int]], list[str]] | None = None,
    ) -> None:
        self._hosts, self._program, self._line, self._environ = tuple(hosts), program, line, environ
        self._movable, self._line_without = movable, line_without
        self._lost: list[str] = []
        self._local = frozenset(host.name for host in hosts if is_local(host.name))
        """This machine's names: looked up while its network is as it should be."""

    def refuse_silent(self) -> None:
        """Raise ConfigError, before anything starts, for a host that does not answer or lacks the program."""
        answers = self._ask(PROBE_TIMEOUT_S)
        if answers.silent:
            raise ConfigError(
                f"{_hosts(answers.silent)} not answer: each has to be reached from here without a password, "
                f"as by `ssh {answers.silent[0]} true`"
            )
        if answers.without_program:
            raise ConfigError(
                f"{_hosts(answers.without_program)} not have {self._program}: silofl has to be installed at "
                "the same path on every host"
            )

    def command(self) -> list[str]:
        """See `Restarted`: on the hosts that answer now, with the silos of those that do not.

        Every silo is started: one whose host is lost runs beside the silos of its neighbours in the list,
        where silos are movable. Where they are not and a host is lost, they are left out, or StoppedError.
        """
        answers = self._ask(LOST_TIMEOUT_S)
        self._lost = lost = [*answers.silent, *answers.without_program]
        if lost and not self._movable and self._line_without is not None:
            seats, silos = seats_without(self._hosts, lost)
            if not seats:
                raise StoppedError(NO_HOST)
            log(f"{_hosts(lost)} not answer: silo {', '.join(map(str, silos))} is to be left out")
            return self._line_without(self._told(seats), silos)
        if lost and not self._movable:
            raise StoppedError(
                f"{_hosts(lost)} not answer, where institutions have their data: start the same command with "
                "--resume when all hosts do"
            )
        left = without(self._hosts, lost) if self._movable else self._hosts
        if not left:
            raise StoppedError(NO_HOST)
        if lost:
            log(f"{_hosts(lost)} not answer: all silos run on {', '.join(map(str, left))}")
        return self._line(self._told(left))

    def _told(self, hosts: Sequence[Host]) -> Sequence[Host]:
        """As the launcher is told of them: this machine is found also where the network's address is gone."""
        here = {host.name for host in hosts} <= self._local
        return (Host(THIS_HOST, sum(host.slots for host in hosts)),) if here else hosts

    def exit_code(self, code: int) -> int:
        """See `Restarted`: input that is bad where a silo's host is lost may be good on that host."""
        if code != EXIT_BAD_INPUT or not self._lost:
            return code
        log(f"{_hosts(self._lost)} not answer, and its silos may have files that no other host has")
        return EXIT_RESUMABLE

    def _ask(self, timeout_s: float) -> Answers:
        others = [host.name for host in self._hosts if host.name not in self._local]
        return probe(others, self._program, self._environ, timeout_s)


def notice_silence(seconds: float, environ: MutableMapping[str, str] = os.environ) -> None:
    """Have Open MPI's daemons take a connection among them for lost that answers nothing for so long.

    By TCP's keepalive, which is first asked for after half of that time without traffic, so that it takes up
    to half as long again. What the user has set stays. It is all that notices a link that is cut before ranks
    know each other; by itself Open MPI 5 takes 300 s and nine times 20 s.
    """
    idle, every = math.ceil(seconds / 2), math.ceil(seconds / KEEPALIVE_PROBES)
    for name, value in (("time", idle), ("intvl", every), ("probes", KEEPALIVE_PROBES)):
        environ.setdefault(f"PRTE_MCA_oob_tcp_keepalive_{name}", str(value))


def _hosts(names: Sequence[str]) -> str:
    return f"host {names[0]} does" if len(names) == 1 else f"hosts {', '.join(names)} do"
