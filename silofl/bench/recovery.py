"""`silofl bench recovery`: from the kill of a silo to the next committed round, seen from outside.

Federations as `silofl launch` starts them, in which an injected fault kills one silo, another one each time.
This process takes the times: the kill's when its line arrives, a commit's from its manifest's file. The way
from the same step to the same commit in rounds without a failure is measured in the same run, where injected
faults that slow the step by a factor of 1 say when it is reached.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from silofl.bench.measure import machine
from silofl.checkpoint.names import MANIFEST, round_name
from silofl.comm.mpi_library import mpi_info
from silofl.errors import ConfigError, SiloflError
from silofl.launcher.command import launch_command, python_command
from silofl.launcher.detection import detect
from silofl.launcher.hosts import Host
from silofl.launcher.job_supervisor import private_session_dir
from silofl.launcher.mpi_info import MpiInfo

POLICIES = ("shrink", "respawn")
GOALS_S = {"shrink": 1.0, "respawn": 5.0}
"""Most seconds that a loss may add; for `respawn` until all silos are back."""
LEAST_SILOS = 4
"""A secure sum needs three, and one is killed."""
USUAL, KILLED, ROUNDS = (2, 3, 4, 5), 8, 12
STEP = "collect"
POLL_S, LIMIT_S, GRACE_S = 0.002, 180.0, 5.0
CONFIG = """
[run]
rounds = {rounds}
display = "none"
[task]
name = "digits"
model = "cnn"
[train]
epochs = 6
batch_size = 16
lr = 0.05
[checkpoint]
keep = {rounds}
[failure]
policy = "{policy}"
inject = {faults}
"""
INJECTED = re.compile(r"injected fault: (\w+) silo \d+ in round (\d+) ")


@dataclass(frozen=True)
class Commit:
    """A manifest as it appeared; a round that is committed again, by more silos, has two."""

    round: int
    silos: int
    at: float
    """Seconds of the system's clock."""


@dataclass(frozen=True)
class Times:
    """Seconds of one federation."""

    round: float
    """From commit to commit, without a loss."""
    met: float
    """From the first error until the survivors had met again."""
    commit: float
    """From the kill to the commit of its round."""
    commit_without: float
    """The same way without a loss."""
    whole: float | None = None
    """From the kill to the next round's commit by all silos; None where the lost one stays away."""
    whole_without: float | None = None


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured in each federation, and the same way without a loss."""

    name: str
    seconds: list[float]
    without: list[float] = field(default_factory=list)
    goal: float | None = None
    """Most seconds that a loss may add."""

    @property
    def added(self) -> float | None:
        """Median of what the loss added, federation by federation."""
        pairs = zip(self.seconds, self.without, strict=True) if self.without else None
        return None if pairs is None else statistics.median(a - b for a, b in pairs)


@dataclass(frozen=True)
class Result:
    """All figures of one policy."""

    policy: str
    round: float
    """Median seconds of a round without a loss."""
    figures: list[Figure]


def run(
    silos: int,
    *,
    repeats: int,
    hosts: Sequence[Host] = (),
    told: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Start `repeats` federations of `silos` for each policy, one after the other, and measure them.

    They run here, or on `hosts`, of which this machine is the first. `told` hears what is under way. Raises
    ConfigError where the MPI library cannot survive a dead rank, or inside mpirun.
    """
    info = mpi_info()
    if not info.fault_tolerant:
        raise ConfigError(
            f"silofl bench recovery kills a silo, which no rank of {info.name} {info.version} survives: "
            "use Open MPI 5 or later (silofl doctor says what is here)"
        )
    if detect(os.environ).size is not None:
        raise ConfigError("silofl bench recovery starts its own ranks: call it without mpirun")
    if silos < LEAST_SILOS:
        raise ConfigError(f"-n {silos} leaves too few silos for a secure sum: give at least {LEAST_SILOS}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends the federation, too
    results = []
    for policy in POLICIES:
        times = []
        for repeat in range(repeats):
            told(f"{policy}, federation {repeat + 1} of {repeats}")
            times.append(_federation(info, policy, silos, hosts, killed=repeat % silos))
        results.append(summarize(policy, times))
    return results


def _federation(info: MpiInfo, policy: str, silos: int, hosts: Sequence[Host], *, killed: int) -> Times:
    """Run one federation and take its times; leaves no process and no file behind."""
    folder = Path(tempfile.mkdtemp(prefix="silofl-recovery-"))
    try:
        faults = [f"slow silo {killed} round {number} at {STEP} x1" for number in USUAL]
        faults.append(f"kill silo {killed} round {KILLED} at {STEP}")
        config, directory = folder / "recovery.toml", folder / "run"
        config.write_text(CONFIG.format(rounds=ROUNDS, policy=policy, faults=json.dumps(faults)))
        program = [*python_command(), "train", str(config), "--run", str(directory)]
        line = launch_command(info, silos, root=os.geteuid() == 0, argv=program, ulfm=True, hosts=hosts)
        watch = Watch(directory, silos)
        words = _watched(line, watch, private_session_dir(str(folder), os.environ))
        if not (directory / "summary.json").exists():
            raise SiloflError(f"a federation under {policy!r} did not come to its end: {words}")
        lines = (directory / "metrics.jsonl").read_text().splitlines()
        return times_of(watch.commits, watch.marks, [json.loads(line) for line in lines], silos, policy)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Watch:
    """Sees what a federation of `silos` does, by its files and by its lines."""

    def __init__(self, directory: Path, silos: int) -> None:
        self._checkpoints, self._silos = directory / "checkpoints", silos
        self._known: dict[int, int] = {}
        self.commits: list[Commit] = []
        self.marks: dict[int, float] = {}
        """By round: when the silo that is to be killed reached the step, killed there or not."""

    def look(self) -> None:
        """Note every manifest that is new."""
        for number in range(1, ROUNDS + 1):
            path = self._checkpoints / round_name(number) / MANIFEST
            try:
                state = path.stat()
                if state.st_ino != self._known.get(number):
                    members = json.loads(path.read_bytes())["members"]
                    self._known[number] = state.st_ino
                    self.commits.append(Commit(number, len(members), state.st_ctime))  # its renaming's
            except FileNotFoundError:
                continue

    def hear(self, line: str) -> None:
        """Note an injected fault, now."""
        found = INJECTED.search(line)
        if found is not None:
            self.marks[int(found[2])] = time.time()


def _watched(line: list[str], watch: Watch, environ: dict[str, str]) -> str:
    """Run a command to its end, or to its limit; the last thing that it said."""
    job = subprocess.Popen(
        line,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stderr is not None
    said = ["nothing was heard of it"]
    listener = threading.Thread(target=_listen, args=(job.stderr, watch, said), daemon=True)
    listener.start()
    ends = time.monotonic() + LIMIT_S
    try:
        while job.poll() is None and time.monotonic() < ends:
            watch.look()
            time.sleep(POLL_S)
        watch.look()
    finally:
        _end(job)
        listener.join(GRACE_S)
    return said[-1]


def _listen(stream: Iterable[str], watch: Watch, said: list[str]) -> None:
    for line in stream:
        watch.hear(line)
        if line.strip(" -\n"):
            said.append(line.strip())


def _end(job: subprocess.Popen[str]) -> None:
    """End a launcher that still runs; ranks end with it, by its hand or by their watchdogs'."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if job.poll() is None:
            job.send_signal(number)
            try:
                job.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                continue


def times_of(
    commits: list[Commit], marks: dict[int, float], records: list[dict[str, Any]], silos: int, policy: str
) -> Times:
    """The figures of one federation whose silo was killed in round `KILLED`."""

    def way(number: int, further: int, least: int) -> float:
        reached = [one.at for one in commits if one.round >= number + further and one.silos >= least]
        if number not in marks:
            raise SiloflError(f"under {policy!r} nothing was heard of the injected fault in round {number}")
        if not reached:
            raise SiloflError(f"under {policy!r} no round from {number + further} on has {least} silos")
        return min(reached) - marks[number]

    def without(further: int) -> float:
        return statistics.median(way(number, further, silos) for number in USUAL)

    usual = sorted(one.at for one in commits if one.round <= max(USUAL))
    met = next(record["recovery_seconds"] for record in records if record["round"] == KILLED)
    returns = policy == "respawn"
    return Times(
        round=(usual[-1] - usual[0]) / (len(usual) - 1),
        met=met,
        commit=way(KILLED, 0, 1),
        commit_without=without(0),
        whole=way(KILLED, 1, silos) if returns else None,
        whole_without=without(1) if returns else None,
    )


def summarize(policy: str, times: list[Times]) -> Result:
    """The figures of all federations under one policy."""
    goal = GOALS_S[policy]
    figures = [
        Figure("survivors met again", [one.met for one in times]),
        Figure(
            "kill to its round's commit",
            [one.commit for one in times],
            [one.commit_without for one in times],
            goal,
        ),
    ]
    whole = [(one.whole, one.whole_without) for one in times if one.whole and one.whole_without]
    if whole:
        name = "kill to a round of all silos, committed"
        figures.append(Figure(name, [a for a, _ in whole], [b for _, b in whole], goal))
    return Result(policy, statistics.median(one.round for one in times), figures)


def table(silos: int, results: list[Result], hosts: Sequence[Host] = ()) -> Table:
    """The figures for a person to read."""
    where = f" on {len(hosts)} hosts" if hosts else ""
    out = Table(title=f"recovery, {silos} silos{where}, one of them killed at {STEP}", title_justify="left")
    out.add_column("policy")
    out.add_column("measured")
    headings = ("s", "fastest", "slowest", "without a loss", "added, s", "goal", "added, rounds")
    for heading in headings:
        out.add_column(heading, justify="right")
    for result in results:
        for one in result.figures:
            cells = [f"{statistics.median(one.seconds):.2f}", f"{min(one.seconds):.2f}"]
            cells.append(f"{max(one.seconds):.2f}")
            if one.added is not None and one.goal is not None:
                colour = "[green]" if one.added <= one.goal else "[yellow]"
                cells += [f"{statistics.median(one.without):.2f}", f"{colour}{one.added:.2f}"]
                cells += [f"<= {one.goal:g}", f"{one.added / result.round:.1f}"]
            out.add_row(result.policy, one.name, *cells)
    return out


def to_json(silos: int, results: list[Result], hosts: Sequence[Host] = ()) -> str:
    """The figures of every federation, and the machine, for a program to read."""
    told = {"benchmark": "recovery", "machine": machine(), "silos": silos, "step": STEP}
    told |= {"silos_by_host": [host.slots for host in hosts]} if hosts else {}
    return json.dumps(told | {"policies": [asdict(one) for one in results]}, indent=2)
