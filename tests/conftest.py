"""Real launchers for tests: every job runs in a subprocess with a time limit."""

from __future__ import annotations

# ruff: noqa: E402 - the environment comes before NumPy, torch and MPI are loaded
from silofl.launcher.environment import prepare_environment

prepare_environment()

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from silofl.launcher.environment import environment_of_ranks
from silofl.launcher.job_supervisor import private_session_dir
from silofl.launcher.mpi_info import find_launchers
from silofl.launcher.zygote import stub
from tests import threat_table, warm
from tests.campaigns import leave_rest_of_families

pytest_plugins = ["tests.cpu_times", "tests.groups"]

settings.register_profile("no deadline", deadline=None)  # times are benchmarks, and first calls compile
settings.load_profile("no deadline")

ROOT = Path(__file__).resolve().parents[1]
MPICH = Path(sys.prefix) / "mpich"
FOLDERS = {
    **dict.fromkeys(("kernels", "aggregation"), "kernels"),
    **dict.fromkeys(("federation", "strategies", "personal"), "federations"),
}
"""The marker of a folder's tests, where they are a group's."""
PATIENCE_S = 90.0


@dataclass
class Finished:
    """A job that ended."""

    code: int
    out: str
    err: str
    seconds: float


class Job:
    """An mpirun that is going on, with its ranks in a process group of their own."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str]) -> None:
        self._began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait(self, timeout_s: float = PATIENCE_S) -> Finished:
        """The end of the job; one that outlasts its time is killed and fails the test."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            out, err = self.process.communicate()
            pytest.fail(f"job hung for {timeout_s} s\n{out[-2000:]}\n{err[-2000:]}")
        return Finished(self.process.returncode, out, err, time.monotonic() - self._began)

    def kill(self) -> None:
        """SIGKILL to the launcher and to every rank, at once."""
        for pid in [*descendants(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def descendants(pid: int) -> list[int]:
    """Processes started, directly or not, by a process that we started."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    fork = warm.fork_of(pid)
    return [p for child in [*children, *([fork] if fork else [])] for p in (child, *descendants(child))]


def launcher(
    vendor: str, n: int, *, ulfm: bool = False, exact: bool = True
) -> tuple[list[str], dict[str, str]]:
    """The mpirun line and environment of one of the two libraries; `ulfm`: ranks outlive each other.

    `exact`: there are as many slots as ranks, as in a queue's job, so that none is free for a respawned silo.
    """
    env = {**os.environ, "SILOFL_TEST": "1"}
    if vendor == "mpich":
        return [str(MPICH / "bin" / "mpiexec"), "-n", str(n)], env
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    slots = ["--host", f"localhost:{n}"] if exact else ["--oversubscribe"]
    mpirun = [str(Path(sys.prefix) / "bin" / "mpirun"), *root, *slots, "--bind-to", "none"]
    return [*mpirun, *(["--with-ft", "ulfm"] if ulfm else []), "-n", str(n)], env


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cold", action="store_true", help="let every process load its libraries itself")
    parser.addoption("--zygote", action="store_true", help="let ranks start as those of `silofl launch` do")


COLLECTED = pytest.StashKey[list[pytest.Item]]()
"""All that was collected, also what `-m` leaves out afterwards."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the group of `make test` that runs a test, and what docs/threat-model.md names."""
    config.stash[COLLECTED] = list(items)
    mark_groups(items)
    leave_rest_of_families(items)
    named = threat_table.named(threat_table.DOCUMENT.read_text())
    for item in items:
        if item.nodeid.partition("[")[0] in named:
            item.add_marker("threat_model")


def mark_groups(items: list[pytest.Item]) -> None:
    """Mark what `make test` runs in a group of its own, by the fixtures that it uses, or its folder."""
    groups = {"ranks": {"start", "python"}, "slurm": {"cluster"}}
    for item in items:
        if item.path.parent.name in FOLDERS:
            item.add_marker(FOLDERS[item.path.parent.name])
        for marker, fixtures in groups.items():
            if fixtures.intersection(getattr(item, "fixturenames", ())):
                item.add_marker(marker)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test that docs/threat-model.md names pass for run where it skips itself."""
    report = yield
    if item.get_closest_marker("threat_model") is not None:
        refuse_skipped(item, report)
    return report


def refuse_skipped(item: pytest.Item, report: pytest.TestReport) -> None:
    """Make a failure of a report that tells of a skipped test."""
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and docs/threat-model.md names it for what it claims"


@pytest.fixture(scope="session", autouse=True)
def _no_waits_for_the_disk() -> Iterator[None]:
    """Leave files in the system's memory, which outlives every killed process, but no machine that crashes.

    What a crash of the machine leaves is found by `tests/checkpoint/test_killed.py`, which has an `fsync` of
    its own, and ranks that are processes wait as they do for users.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Python whose processes have loaded everything already: see `tests.warm`.

    With `--cold`, and where the operating system is not Linux, the usual one, whose ranks load everything
    themselves; with `--zygote` the usual one, too, and ranks are forks of the zygote that users have. What it
    runs has one thread of each library, by `ONE_THREAD`.
    """
    if request.config.getoption("--zygote"):
        with stub.Hold(environment_of_ranks(os.environ, find_launchers(None))):
            yield sys.executable
        return
    if request.config.getoption("--cold"):
        os.environ[stub.VARIABLE] = "0"
    if request.config.getoption("--cold") or sys.platform != "linux":
        yield sys.executable
        return
    made = warm.WarmPython(tmp_path_factory.mktemp("warm"))
    yield made.executable
    made.stop()


ONE_THREAD = {"OMP_NUM_THREADS": "1"}
Start = Callable[..., Job]


@pytest.fixture
def start(tmp_path: Path, python: str) -> Iterator[Start]:
    """`start(n, *arguments)` starts `silofl`, or another `module`, on n ranks in tmp_path.

    `ranks=[[...], [...]]` gives every rank arguments of Python of its own; `ulfm=True` lets ranks outlive
    each other; `cold=True` has every rank load its libraries itself.
    """
    jobs: list[Job] = []

    def begin(
        n: int,
        *arguments: str,
        vendor: str = "openmpi",
        ranks: list[list[str]] | None = None,
        env: dict[str, str] | None = None,
        ulfm: bool = False,
        cold: bool = False,
        module: str = "silofl",
    ) -> Job:
        line, base = launcher(vendor, 1 if ranks else n, ulfm=ulfm, exact=not ranks)
        sessions = tmp_path / ".mpi"
        sessions.mkdir(exist_ok=True)
        own_python = sys.executable if cold else python
        if ranks is None:
            command = [*line, own_python, "-m", module, *arguments]
        else:
            count = line[-2:]
            command = [*line, own_python, *ranks[0]]
            for own in ranks[1:]:
                command += [":", *count, own_python, *own]
        base |= {stub.VARIABLE: "0"} if cold else ONE_THREAD
        jobs.append(Job(command, tmp_path, private_session_dir(str(sessions), {**base, **(env or {})})))
        return jobs[-1]

    yield begin
    for job in jobs:
        if job.process.poll() is None:
            job.kill()
            job.process.communicate()


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `benchmarks/two_hosts.py`, where two hosts can be made on this machine."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = __import__("two_hosts")
    try:
        with found.two_hosts(100.0):
            return found
    except found.HostsError as error:
        pytest.skip(f"no two hosts here: {error}")


QUICK = """
[run]
rounds = 6
display = "plain"
[task]
name = "synthetic"
model = "linear"
[train]
epochs = 1
batch_size = 16
momentum = 0.9
[strategy]
momentum = 0.5
"""


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """A small, quick run: six rounds of one epoch on synthetic(1, 1)."""
    path = tmp_path / "quick.toml"
    path.write_text(QUICK)
    return path
