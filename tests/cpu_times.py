"""`pytest --cpu-times`: the processor time of every test, of what it started and of what that left behind.

A test's figure holds its fixtures that were made or ended with it. Processes that are still there when a
test ends count for the test in which they end.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import warm

PR_SET_CHILD_SUBREAPER = 36
MOST = 40
"""Tests that are listed one by one."""


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "print the processor time of each folder, each file and of the dearest tests"
    parser.addoption("--cpu-times", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--cpu-times"):
        config.pluginmanager.register(Times(), "silofl-cpu-times")


class Times:
    """Counts processor time. Orphans become children of this process, or nobody could ask for theirs."""

    def __init__(self) -> None:
        self._spent = dict[str, float]()
        self._seconds = dict[str, float]()
        self._began = spent()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        before, began = spent(), time.perf_counter()
        result = yield
        reap()
        self._spent[item.nodeid] = spent() - before
        self._seconds[item.nodeid] = time.perf_counter() - began
        return result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        tests = sorted(self._spent, key=lambda name: -self._spent[name])
        files, folders = defaultdict[str, float](float), defaultdict[str, float](float)
        for name in tests:
            file = name.partition("::")[0]
            files[file] += self._spent[name]
            folders[str(Path(file).parent)] += self._spent[name]
        everything = sum(self._spent.values())
        say = terminalreporter.write_line
        terminalreporter.write_sep("=", "processor time")
        for title, figures in (("folders", folders), ("files", files)):
            say(f"{title}:")
            for name, seconds in sorted(figures.items(), key=lambda pair: -pair[1]):
                if seconds >= 0.05:
                    say(f"{seconds:8.1f} s  {name}")
        say(f"the {MOST} dearest tests, with the time that they took:")
        for name in tests[:MOST]:
            say(f"{self._spent[name]:8.1f} s {self._seconds[name]:8.1f} s  {name}")
        say(f"{everything:8.1f} s  {len(tests)} tests")
        say(f"{spent() - self._began:8.1f} s  since pytest began, {spent():.1f} s with its own start")


def spent() -> float:
    """Processor seconds of this process, of its children that have ended, and of forks of a warm one."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used) + warm.spent()


def reap() -> None:
    """Take leave of orphans that have ended. Whoever waits for a child of its own has done so by now."""
    for listing in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, listing.read_text().split()):
                with suppress(OSError):
                    if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                        os.waitpid(child, 0)
