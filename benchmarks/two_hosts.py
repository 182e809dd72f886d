"""Two hosts on one machine: a network namespace each, with a link between them that is as slow as wanted.

A host has its own network, its own host name and nothing else of its own, so that ranks on both share cores:
but one folder, where that is wanted, in which each sees what is its own (a bind mount).
What is sent from one to the other passes a pair of virtual Ethernet devices, each limited by a token bucket
(`tc qdisc ... tbf`). More than two hosts have a switch between them, to which each has such a link. Needs
root (CAP_NET_ADMIN and CAP_SYS_ADMIN) and iproute2; nothing leaves the machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

NETWORK, MOST = "10.99.0.0/24", 8
ADDRESSES = tuple(f"10.99.0.{number}" for number in range(1, MOST + 1))
DEVICE = "link0"
"""On every host."""
BURST_S, WAITING_S = 0.002, 0.05
"""A token bucket's depth, in seconds at its rate, and how long a packet waits in front of it at most."""
LEAST_BURST = 16_000
CONGESTION_CONTROL = "cubic"
WITHIN = 'hostname "$0"; exec "$@"'
AGENT = """#!/usr/bin/env bash
# What mpirun calls in the place of ssh: [options] address command...
while [ "${{1#-}}" != "$1" ]; do shift; done
[ ! -e "{folder}/$1.down" ] || {{ sleep 60; exit 255; }}
case "$1" in {cases} *) echo "no host $1" >&2; exit 255 ;; esac
shift
exec ip netns exec "$host" unshare --uts bash -c "{mount}hostname $host; $*"
"""
GRACE_S, LOOK_S = 10.0, 0.01


class HostsError(RuntimeError):
    """Hosts could not be made; what the system said."""


@dataclass(frozen=True)
class Hosts:
    """Hosts that are there, and how mpirun gets to them."""

    names: tuple[str, ...]
    """Of the namespaces, and host names."""
    agent: Path
    own: Path | None = None
    """A folder that each host sees as one of its own, which is at `folder_of`."""

    def folder_of(self, host: int) -> Path:
        """What a host sees as its `own`."""
        assert self.own is not None, "hosts share all folders"
        return self.own.with_name(f"{self.own.name}-{self.names[host]}")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of the hosts."""
        return ADDRESSES[: len(self.names)]

    def mpirun(
        self,
        launcher: str,
        ranks_a_host: int,
        argv: Sequence[str],
        environ: Mapping[str, str],
        timeout_s: float,
    ) -> int:
        """Start `argv` on `ranks_a_host` ranks of each, the first host's first; mpirun's exit code.

        HostsError where it takes longer than `timeout_s`. No process is left on the hosts after this.
        """
        line = [launcher, "--allow-run-as-root", "--bind-to", "none", "--map-by", f"ppr:{ranks_a_host}:node"]
        line += ["--host", ",".join(f"{one}:{ranks_a_host}" for one in self.addresses)]
        line += argv
        process = self.start(line, environ)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise HostsError(f"the ranks on the hosts were not through after {timeout_s:.0f} s") from None
        finally:
            self.clear()
            process.wait(GRACE_S)

    def start(
        self, line: Sequence[str], environ: Mapping[str, str], output: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on the first host, which reaches the other; what it prints goes to `output`."""
        words = f"ip netns exec {self.names[0]} unshare --uts bash -c".split()
        environ = dict(environ) | {"TMPDIR": str(self.agent.parent)}  # what a killed job leaves goes with it
        environ |= {"PRTE_MCA_plm_ssh_agent": str(self.agent)}
        return subprocess.Popen(
            [*words, _mount(self.own, "$0") + WITHIN, self.names[0], *line],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
        )

    def cut(self) -> None:
        """Cut the link at the second host: what is sent is lost, and no process is told."""
        _ip("-n", self.names[1], "link", "set", DEVICE, "down")
        self._down(1).touch()

    def join(self) -> None:
        """Mend the link that was cut; a host that was killed answers again."""
        _ip("-n", self.names[1], "link", "set", DEVICE, "up")
        self._route(1)
        self._down(1).unlink(missing_ok=True)

    def kill_host(self, host: int = 1, *, for_ever: bool) -> None:
        """Kill all that runs on a host, but the first; `for_ever`: it does not answer from now on."""
        if for_ever:
            self._down(host).touch()
        found = self.processes(host)
        # A host goes as one. Stopped, none of its processes tells that another ends.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                _kill(pid, number)

    def processes(self, host: int) -> dict[int, str]:
        """What runs on a host, by process number: names of programs."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.names[host]], capture_output=True, text=True, check=False
        )
        found = {}
        for pid in map(int, listed.stdout.split()):
            with suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
        return found

    def clear(self) -> None:
        """End what still runs on the hosts: it outlives an mpirun that was killed.

        HostsError where something is left after `GRACE_S`. What is killed is there until it has run
        once more, and what it had begun to start may come after the look: until a look finds nobody.
        """
        end = time.monotonic() + GRACE_S
        while left := [pid for host in range(len(self.names)) for pid in self.processes(host)]:
            if time.monotonic() > end:
                raise HostsError(f"processes {left} on the hosts do not end")
            for pid in left:
                _kill(pid)
            time.sleep(LOOK_S)

    def _down(self, host: int) -> Path:
        """A file that is there while the host does not answer the agent."""
        return self.agent.with_name(f"{ADDRESSES[host]}.down")

    def _route(self, host: int) -> None:
        route = f"route replace {NETWORK} dev {DEVICE} src {ADDRESSES[host]} congctl {CONGESTION_CONTROL}"
        _ip("-n", self.names[host], *route.split())


@contextmanager
def two_hosts(megabits: float, count: int = 2, own: Path | None = None) -> Iterator[Hosts]:
    """Two hosts, or `count` of them, of which each sends and is sent so many Mbit/s; gone after the block.

    `own` is a path, without spaces, at which each of them has a folder that no other sees; the folders stay.

    Raises:
        HostsError: they cannot be made here.
    """
    names = tuple(f"silofl-{letter}-{os.getpid()}" for letter in "abcdefgh"[:count])
    switch = [f"silofl-switch-{os.getpid()}"] if count > 2 else []
    folder = Path(tempfile.mkdtemp(prefix="silofl-hosts-"))
    hosts = Hosts(names, folder / "agent.sh", own)
    stopped = signal.signal(signal.SIGTERM, _stop)
    try:
        cases = " ".join(f"{a}) host={n} ;;" for a, n in zip(hosts.addresses, names, strict=True))
        for one in () if own is None else (own, *map(hosts.folder_of, range(count))):
            one.mkdir()
        hosts.agent.write_text(AGENT.format(cases=cases, folder=folder, mount=_mount(own, "$host")))
        hosts.agent.chmod(0o700)
        _make(hosts, switch, megabits)
        yield hosts
    finally:
        try:
            hosts.clear()
        finally:
            for name in (*names, *switch):  # the devices go with them
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            shutil.rmtree(folder)
            signal.signal(signal.SIGTERM, stopped)


def _mount(own: Path | None, host: str) -> str:
    """The words that give a host its own folder: `ip netns exec` has given it mounts of its own."""
    return "" if own is None else f"mount --bind {own}-{host} {own}; "


def crossed() -> int:
    """Bytes that have passed the link so far in the busier direction, as this rank's host counts them."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        device, _, counts = line.partition(":")
        if device.strip() == DEVICE:
            numbers = counts.split()
            return max(int(numbers[0]), int(numbers[8]))
    raise HostsError(f"no device {DEVICE} on this host")


def _make(hosts: Hosts, switch: Sequence[str], megabits: float) -> None:
    """Namespaces, pairs of devices, and the limit of each."""
    for name in (*hosts.names, *switch):
        _ip("netns", "add", name)
    if switch:
        _connect(hosts.names, switch[0], megabits)
    else:
        first, second = hosts.names
        _ip(*f"link add {DEVICE} netns {first} type veth peer name {DEVICE} netns {second}".split())
    for host, (name, address) in enumerate(zip(hosts.names, hosts.addresses, strict=True)):
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", DEVICE, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", DEVICE)
        _limit(name, DEVICE, megabits)
        hosts._route(host)


def _connect(names: Sequence[str], switch: str, megabits: float) -> None:
    """A pair of devices from each host to a bridge, which sends as fast as the hosts."""
    _ip("-n", switch, "link", "add", "bridge0", "type", "bridge")
    _ip("-n", switch, "link", "set", "bridge0", "up")
    for number, name in enumerate(names):
        port = f"port{number}"
        _ip(*f"link add {DEVICE} netns {name} type veth peer name {port} netns {switch}".split())
        _ip("-n", switch, "link", "set", port, "master", "bridge0", "up")
        _limit(switch, port, megabits)


def _limit(name: str, device: str, megabits: float) -> None:
    burst = max(LEAST_BURST, round(megabits * 1e6 / 8 * BURST_S))
    limit = f"tc -n {name} qdisc add dev {device} root tbf rate {megabits:g}mbit burst {burst}"
    _run([*limit.split(), "latency", f"{1e3 * WAITING_S:g}ms"])


def _kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _ip(*words: str) -> None:
    _run(["ip", *words])


def _run(line: Sequence[str]) -> None:
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HostsError(f"{line[0]} is not installed here: it comes with iproute2") from None
    if done.returncode:
        raise HostsError(f"{' '.join(line)}: {done.stderr.strip()}")


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
