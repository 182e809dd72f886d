"""What `silofl doctor` found on one host or several, with what differs between them; as JSON and as tables.

The JSON (`--json`) is one object:

    format       "silofl doctor 1"; the number changes when a key changes its meaning or goes
    hosts        a list, one object for each host in the order they were named:
        host     the name it was given, or its own where none was
        answered whether it was examined; without, `findings` has one that says why
        hostname its own name; "" where it did not answer
        clock_s  seconds by which its clock is ahead of the examining host's, about; null where not measured
        versions of what has to be alike, by name
        findings a list of {what, mark, detail, advice}; mark is "ok", "gap" or "missing"
    between      findings about all hosts together, such as versions that differ
    exit_code    2 where any mark is "missing", else 0
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rich.console import Console

from silofl.errors import EXIT_BAD_INPUT
from silofl.report.doctor import Finding, examine, print_findings, versions

FORMAT = "silofl doctor 1"
CLOCK_TOLERANCE_S = 2.0
"""A host's report may take so long to get here."""
_ADVICE = {
    "silofl": "install one version everywhere: ranks of others are refused",
    "MPI": "use one MPI library everywhere",
    "torch": "install one version everywhere, or models may differ in their last bits",
    "numpy": "install one version everywhere",
    "Python": "use one version everywhere",
}
_SLOWER = "sums are the same; the slowest host sets the pace"


@dataclass(frozen=True)
class HostReport:
    """One host's part; see the module."""

    host: str
    findings: list[Finding]
    answered: bool = True
    hostname: str = ""
    clock_s: float | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def own(cls) -> HostReport:
        """This host's."""
        name = socket.gethostname()
        return cls(name, examine(), hostname=name, versions=versions())

    @classmethod
    def without_answer(cls, host: str, why: str) -> HostReport:
        """Of a host that was not examined."""
        advice = "see that mpirun reaches it (ssh without a password) and that silofl is at the same path"
        return cls(host, [Finding("host", "missing", why, advice)], answered=False)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> HostReport:
        """Of an object of `hosts`."""
        return cls(**{**table, "findings": [Finding(**one) for one in table["findings"]]})

    def seen_as(self, host: str, clock_s: float) -> HostReport:
        """The report as the examining host files it."""
        return replace(self, host=host, clock_s=round(clock_s, 3))


@dataclass(frozen=True)
class Report:
    """All hosts' reports, and what was found about them together."""

    hosts: Sequence[HostReport]
    between: Sequence[Finding] = ()

    @property
    def exit_code(self) -> int:
        """2 where something without which nothing runs is missing, else 0."""
        every = [*self.between, *(one for host in self.hosts for one in host.findings)]
        return EXIT_BAD_INPUT if any(one.mark == "missing" for one in every) else 0

    def to_json(self) -> dict[str, Any]:
        """See the module."""
        return {
            "format": FORMAT,
            "hosts": [asdict(one) for one in self.hosts],
            "between": [asdict(one) for one in self.between],
            "exit_code": self.exit_code,
        }

    def print(self) -> None:
        """Tables, a host's under its name where there are several."""
        console = Console(highlight=False)
        if len(self.hosts) == 1 and not self.between:
            print_findings(self.hosts[0].findings, console)
            return
        for host in self.hosts:
            own = f" ({host.hostname})" if host.hostname not in ("", host.host) else ""
            console.print(f"{host.host}{own}", markup=False)
            print_findings(host.findings, console)
        console.print("between hosts")
        print_findings(list(self.between), console)


def differences(hosts: Sequence[HostReport]) -> list[Finding]:
    """A gap for every version that is not the same on all hosts that answered, and for every clock."""
    there = [one for one in hosts if one.answered]
    names = dict.fromkeys(name for one in there for name in one.versions)
    found = []
    for name in names:
        hosts_of: dict[str, list[str]] = {}
        for one in there:
            hosts_of.setdefault(one.versions.get(name, "none"), []).append(one.host)
        if len(hosts_of) > 1:
            detail = ", ".join(f"{version} on {' and '.join(on)}" for version, on in hosts_of.items())
            found.append(Finding(name, "gap", detail, _ADVICE.get(name, _SLOWER)))
    for one in there:
        if one.clock_s is not None and abs(one.clock_s) > CLOCK_TOLERANCE_S:
            side = "ahead of" if one.clock_s > 0 else "behind"
            detail = f"that of {one.host} is about {abs(one.clock_s):.0f} s {side} this host's"
            found.append(Finding("clock", "gap", detail, "have clocks set over the network (NTP)"))
    return found or [Finding("versions and clocks", "ok", "the same on all hosts that answered")]
