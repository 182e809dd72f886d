"""Hosts of a job: what the user names, which of them answer, and how many ranks each gets."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from silofl.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SLOTS = re.compile(r"(?:slots\s*=\s*|:)([0-9]{1,5})")
MOST_SLOTS = 10_000


@dataclass(frozen=True)
class Host:
    """A host and how many ranks it takes."""

    name: str
    """Or its IPv4 address."""
    slots: int

    def __str__(self) -> str:
        return f"{self.name}:{self.slots}"


def named_hosts(option: str | None, file: Path | None, ranks: int) -> tuple[Host, ...]:
    """The hosts of `--host` (a:2,b:2) or `--hostfile`, with as many slots as ranks; none without either.

    Ranks fill the hosts in the order given; a host that gets none is left out. ConfigError for anything that
    is no such list, and where the slots are fewer than the ranks.
    """
    if option is not None and file is not None:
        raise ConfigError("--host and --hostfile both say where ranks run: give one of them")
    if option is None and file is None:
        return ()
    entries = _of_option(option) if option is not None else _of_file(file or Path())
    given = "--host" if option is not None else str(file)
    slots = {host.name: 0 for host in entries}
    for host in entries:
        slots[host.name] += host.slots
    if sum(slots.values()) < ranks:
        raise ConfigError(
            f"{given} has {sum(slots.values())} slots for {ranks} silos: give each host as many as it is to "
            "run, as in a:2,b:2"
        )
    return _filled([Host(name, most) for name, most in slots.items()], ranks)


def every_host(option: str | None, file: Path | None) -> list[str]:
    """The names of all hosts of `--host` or `--hostfile`, each once. Raises ConfigError as `named_hosts`."""
    if option is not None and file is not None:
        raise ConfigError("--host and --hostfile both name hosts: give one of them")
    entries = _of_option(option) if option is not None else _of_file(file) if file is not None else []
    return list(dict.fromkeys(host.name for host in entries))


def _filled(hosts: Iterable[Host], ranks: int) -> tuple[Host, ...]:
    taken = []
    for host in hosts:
        used = min(host.slots, ranks)
        ranks -= used
        taken += [replace(host, slots=used)] if used else []
    return tuple(taken)


def _of_option(text: str) -> list[Host]:
    return [_host(part.strip(), f"--host {text!r}") for part in text.split(",")]


def _of_file(path: Path) -> list[Host]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"--hostfile {path} cannot be read: {reason}") from None
    found = [(number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1)]
    hosts = [_host(line, f"line {number} of {path}: {line!r}") for number, line in found if line]
    if not hosts:
        raise ConfigError(f"--hostfile {path} names no host: give a line such as `a slots=2` for each")
    return hosts


def _host(entry: str, where: str) -> Host:
    """`a`, `a:2` or `a slots=2`."""
    name = _NAME.match(entry)
    rest = entry[name.end() :].strip() if name else entry
    slots = _SLOTS.fullmatch(rest)
    number = int(slots[1]) if slots else 1
    if name is None or (rest and slots is None) or not 1 <= number <= MOST_SLOTS:
        raise ConfigError(
            f"{where} is no host: give its name and how many silos it runs, as a:2, or `a slots=2` in a file"
        )
    return Host(name[0], number)


def without(hosts: Sequence[Host], lost: Iterable[str]) -> tuple[Host, ...]:
    """The hosts that are left, with the ranks of the `lost`: each keeps its own ranks.

    The ranks of a host that is lost go to those before and after it, for ranks fill hosts in order.
    """
    gone = set(lost)
    kept = [host for host in hosts if host.name not in gone]
    slots = {host.name: host.slots for host in kept}
    for index, host in enumerate(hosts):
        if host.name in gone:
            before = next((one.name for one in reversed(hosts[:index]) if one.name in slots), None)
            after = next((one.name for one in hosts[index:] if one.name in slots), None)
            for turn in range(host.slots if slots else 0):
                takes = (before if turn < host.slots / 2 else after) or before or after or ""
                slots[takes] += 1
    return tuple(Host(name, number) for name, number in slots.items())


def seats_without(hosts: Sequence[Host], lost: Iterable[str]) -> tuple[tuple[Host, ...], tuple[int, ...]]:
    """Hosts in the order of ranks, for those of the `lost` a neighbour; and the numbers of these ranks."""
    gone = set(lost)
    seats, moved, first = list[Host](), list[int](), 0
    for index, host in enumerate(hosts):
        ranks = range(first, first := first + host.slots)
        near = [host, *reversed(hosts[:index]), *hosts[index:]]
        seats += [replace(host, name=one.name) for one in near if one.name not in gone][:1]
        moved += ranks if host.name in gone else ()
    return tuple(seats), tuple(moved)


def is_local(name: str) -> bool:
    """Whether this machine is the host: one of its own addresses is the host's."""
    if name in {"localhost", socket.gethostname()}:
        return True
    try:
        found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(_is_own(family, address) for family, _, _, _, address in found)


def _is_own(family: int, address: tuple[object, ...]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True
