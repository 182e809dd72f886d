"""Which hosts answer: one bounded command on each, by the program that mpirun itself reaches hosts by."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from silofl.errors import ConfigError

PROBE_TIMEOUT_S = 10.0
"""Time limit for all hosts together, which are asked at once, before a job starts."""
LOST_TIMEOUT_S = 5.0
"""The same before a restart, where some have answered before and one may be lost."""
READ_S = 1.0
"""Time limit to read what a host has answered."""
AGENTS = ("PRTE_MCA_plm_ssh_agent", "OMPI_MCA_plm_ssh_agent", "PRTE_MCA_plm_rsh_agent")
"""Variables by which Open MPI's launcher takes another program than ssh."""
SSH_OPTIONS = ("-o", "BatchMode=yes", "-o", f"ConnectTimeout={PROBE_TIMEOUT_S:.0f}")
_THERE = "silofl-program-is-there"


class Answers(NamedTuple):
    """What hosts said, by name, in the order they were given."""

    silent: list[str]
    """Did not answer in time, or could not be reached."""
    without_program: list[str]
    """Answered, and do not have the program."""


def agent(environ: Mapping[str, str]) -> list[str]:
    """The command that runs another on a host, before the host's name: ssh unless Open MPI is told another.

    ConfigError where there is none on this machine.
    """
    given = next((environ[name] for name in AGENTS if environ.get(name)), "ssh:rsh")
    for one in given.split(":"):
        try:
            words = shlex.split(one)
        except ValueError as error:
            raise ConfigError(f"{AGENTS[0]} = {given!r} is no command: {error}") from None
        if words and shutil.which(words[0]):
            return [*words, *(SSH_OPTIONS if os.path.basename(words[0]) == "ssh" else ())]
    raise ConfigError(
        f"{given} is not on this machine, and ranks on other hosts are started by it: install an ssh client, "
        f"or name a program in {AGENTS[0]}"
    )


def probe(hosts: Iterable[str], program: str, environ: Mapping[str, str], timeout_s: float) -> Answers:
    """Ask hosts, none of which is this one, whether they have the executable `program`, all at once.

    ConfigError as of `agent`.
    """
    others = list(dict.fromkeys(hosts))  # one of several institutions is asked once
    line = agent(environ) if others else []
    question = f"test -x {shlex.quote(program)} && echo {_THERE} || echo"
    asked = {name: _ask([*line, name, question]) for name in others}
    deadline = time.monotonic() + timeout_s
    told = {name: _told(process, deadline) for name, process in asked.items()}
    silent = [name for name, text in told.items() if text is None]
    return Answers(silent, [name for name, text in told.items() if text is not None and _THERE not in text])


def _ask(line: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",  # of a greeting, in whatever characters
        start_new_session=True,
    )


def _told(process: subprocess.Popen[str], deadline: float) -> str | None:
    """What the host said; None where it was not reached."""
    left_s = 0.0 if process.poll() is None else READ_S  # it may have answered while others were waited for
    try:
        text, _ = process.communicate(timeout=max(left_s, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # an agent may have started others
        process.communicate()
        return None
    return text if process.returncode == 0 else None
