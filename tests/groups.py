"""`pytest --groups=a,b,rest`: what was collected once is run by a process for each group, side by side.

Collecting all tests loads torch and every library, which takes as long as hundreds of tests; the processes
that run them start with all of it there, the usual kernels included, which each would compile anew where
none is kept on disk yet. A test belongs to the first of the names that marks it, or else to the last. What a
group prints comes out when it has ended.

Torch has one thread in all of them. While tests are collected, because a fork has none of the threads that
OpenMP would have made and counts on, and would wait for them for ever; in the groups, because there are more
of them than cores, and threads that wait for each other spin: a test of small models took three times the
processor time. Tests of threads set their number themselves.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Sequence
from typing import BinaryIO

import pytest

from silofl.preload import preload

AT_ONCE = (os.cpu_count() or 1) + 1
"""One more than there are cores, for much of the time a test waits for ranks."""


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "run the tests of each of these markers, and all others, in a process of its own beside the others"
    parser.addoption("--groups", default="", metavar="MARKER,...,REST", help=text)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Leave torch without threads of OpenMP where groups will be forked, and in them."""
    if not session.config.getoption("--groups"):
        return (yield)
    import torch  # which the tests would load

    torch.set_num_threads(1)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Fork the groups and wait for them; in a group's own process, leave its tests to pytest."""
    names = [name for name in session.config.getoption("--groups").split(",") if name]
    if not names or session.config.option.collectonly or session.testsfailed:
        return None
    preload()
    running: dict[int, tuple[str, BinaryIO]] = {}
    groups = divided(session.items, names)
    for name, items in sorted(groups.items(), key=lambda group: -len(group[1])):  # the longest first
        if len(running) == AT_ONCE:
            session.testsfailed += not ended_well(running, session)
        out = tempfile.TemporaryFile()  # noqa: SIM115 - open until its group has ended
        terminal = session.config.get_terminal_writer()
        terminal.flush()
        child = os.fork()
        if not child:
            print_to(out, session.config)
            session.items[:], session.testscollected, session.testsfailed = items, len(items), 0
            return None
        running[child] = name, out
    while running:
        session.testsfailed += not ended_well(running, session)
    return True


def print_to(out: BinaryIO, config: pytest.Config) -> None:
    """Let all that this process prints go to `out`; pytest's capture keeps what was there when it began."""
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()
    for printer in (1, 2):
        os.dup2(out.fileno(), printer)
    capture.start_global_capturing()
    capture.suspend_global_capture()


def divided(items: Sequence[pytest.Item], names: Sequence[str]) -> dict[str, list[pytest.Item]]:
    """The items of each group that has any."""
    groups: dict[str, list[pytest.Item]] = {name: [] for name in names}
    for item in items:
        groups[next((name for name in names if item.get_closest_marker(name)), names[-1])].append(item)
    return {name: own for name, own in groups.items() if own}


def ended_well(running: dict[int, tuple[str, BinaryIO]], session: pytest.Session) -> bool:
    """Wait for one of the groups, print what it has printed, and tell if all its tests passed."""
    child, status, used = os.wait4(-1, 0)
    while child not in running:
        child, status, used = os.wait4(-1, 0)
    name, out = running.pop(child)
    terminal = session.config.get_terminal_writer()
    with out:
        out.seek(0)
        spent = used.ru_utime + used.ru_stime
        told = out.read().decode(errors="replace")
        terminal.write(f"\n{name}, {spent:.0f} s of processor time:\n{told}", flush=True)
    return status == 0
