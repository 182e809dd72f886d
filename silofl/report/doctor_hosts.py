"""`silofl doctor --host`: every host examined by itself, through mpirun, and what differs between them."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import NamedTuple

from silofl.comm.mpi_library import mpi_info
from silofl.comm.protocol import Communicator
from silofl.comm.ranks import run_on_ranks
from silofl.comm.shutdown import Shutdown
from silofl.errors import MissingDependencyError
from silofl.launcher.command import launch_command, python_command
from silofl.launcher.exit_status import EXIT_STATUS
from silofl.launcher.hosts import Host
from silofl.launcher.mpi_info import MpiInfo
from silofl.launcher.process_tree import children_of
from silofl.report.doctor import Finding
from silofl.report.doctor_report import HostReport, Report, differences

AT_ONCE = 8
"""Hosts that are examined at a time: each takes an mpirun here."""
PORTS = ("PRTE_MCA_oob_tcp_static_ipv4_ports", "PRTE_MCA_oob_tcp_dynamic_ipv4_ports")
"""Variables that name ports which one mpirun of this host at a time can have."""
LEAST_S = 10.0
"""For the ranks of all hosts to meet, however long the examination took."""
MESSAGE_BYTES = 1 << 16
"""What each sends to each: more than goes with the first packet."""
_SIGN = "silofl-doctor "
_MEETING = "silofl-doctor-met "


class _End(NamedTuple):
    """What an mpirun said: its lines with the times they came, and the end of its standard error."""

    lines: list[tuple[float, str]]
    error: str


def examine_hosts(hosts: Sequence[str], timeout_s: float) -> Report:
    """Examine each of the hosts, in at most `timeout_s` seconds together, and have their ranks meet.

    A host that cannot be examined is a finding. Raises MissingDependencyError without mpirun.
    """
    info, deadline = mpi_info(), time.monotonic() + timeout_s
    if not info.launchers:
        raise MissingDependencyError(f"{info.name} is installed but no mpirun is: silofl doctor says more")
    with ThreadPoolExecutor(1 if any(os.environ.get(name) for name in PORTS) else AT_ONCE) as pool:
        reports = list(pool.map(lambda host: _examine(info, host, deadline, timeout_s), hosts))
    between = differences(reports)
    there = [one.host for one in reports if one.answered]
    if len(there) > 1:
        between.append(_meeting(info, there, max(LEAST_S, deadline - time.monotonic())))
    return Report(reports, between)


def tell_report() -> None:
    """Print this host's report in one short line, with the time, for `examine_hosts` to read."""
    report = asdict(HostReport.own())
    text = json.dumps({"time": time.time(), "report": report}).encode()
    sys.stdout.write(f"{_SIGN}{base64.b64encode(zlib.compress(text)).decode()}\n")
    sys.stdout.flush()


def meet() -> int:
    """Have this rank and those of the other hosts exchange messages, each with each; an exit code."""

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        comm.alltoall_bytes([bytes(MESSAGE_BYTES)] * comm.size)
        if comm.rank == 0:
            sys.stdout.write(f"{_MEETING}{comm.size}\n")
            sys.stdout.flush()

    return run_on_ranks(body)


def _examine(info: MpiInfo, host: str, deadline: float, timeout_s: float) -> HostReport:
    left = deadline - time.monotonic()
    if left <= 0:
        return HostReport.without_answer(host, f"not examined within {timeout_s:g} s")
    end = _mpirun(info, [host], ["doctor", "--tell"], left)
    for came, line in end.lines:
        if line.startswith(_SIGN):
            told = json.loads(zlib.decompress(base64.b64decode(line.removeprefix(_SIGN))))
            return HostReport.from_json(told["report"]).seen_as(host, told["time"] - came)
    return HostReport.without_answer(host, end.error or f"no answer within {timeout_s:g} s")


def _meeting(info: MpiInfo, hosts: Sequence[str], limit_s: float) -> Finding:
    what, begun = "MPI between hosts", time.monotonic()
    end = _mpirun(info, hosts, ["doctor", "--meet"], limit_s)
    if any(line == f"{_MEETING}{len(hosts)}" for _, line in end.lines):
        took = time.monotonic() - begun
        return Finding(what, "ok", f"a rank of each has exchanged messages with all others ({took:.1f} s)")
    detail = end.error or f"ranks of {', '.join(hosts)} have not met within {limit_s:.0f} s"
    advice = "name the network that they share, and open its ports: docs/across-sites.md"
    return Finding(what, "missing", detail, advice)


def _mpirun(info: MpiInfo, hosts: Sequence[str], arguments: Sequence[str], limit_s: float) -> _End:
    """Run this program with `arguments` on one rank of each host."""
    places, argv = [Host(name, 1) for name in hosts], [*python_command(), *arguments]
    line = launch_command(info, len(hosts), root=os.geteuid() == 0, argv=argv, hosts=places)
    process = subprocess.Popen(
        line,
        env={**os.environ, EXIT_STATUS: ""},  # which the line passes on: these ranks have none to tell
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # no terminal that ssh could ask for a password
    )
    timer = threading.Timer(limit_s, _kill, (process,))
    timer.start()
    errors: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    listener = threading.Thread(target=errors.extend, args=(process.stderr,), daemon=True)
    listener.start()
    lines: list[tuple[float, str]] = []
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    process.wait()
    late = not timer.is_alive()
    timer.cancel()
    for thread in (reader, listener):
        thread.join(1.0)  # what mpirun has started may hold the streams open beyond its end
    return _End(list(lines), "" if late else _said(list(errors), process.returncode))


def _read(stream: Iterable[str], lines: list[tuple[float, str]]) -> None:
    """Note every line, and when it came."""
    for line in stream:
        lines.append((time.time(), line.rstrip("\n")))


def _said(errors: Sequence[str], code: int) -> str:
    """The first line of an mpirun's errors that says something."""
    texts = (line.strip() for line in errors)
    told = next((text for text in texts if text and not text.startswith("---")), "")
    return f"mpirun ended with {code}: {told[:200] or 'it does not say why'}"


def _kill(process: subprocess.Popen[str]) -> None:
    """End an mpirun, and what it has started here to reach hosts, which has a group of its own."""
    for pid in (*children_of(process.pid), process.pid):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(os.getpgid(pid), signal.SIGKILL)
