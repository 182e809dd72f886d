"""A host, its daemon, mpirun or the link between two hosts is lost: `silofl launch` goes on, or says so."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from silofl.launcher.environment import THREAD_VARIABLES
from tests.conftest import ROOT, Start

MEGABITS = 1000.0
LIMIT_S = 240.0
SILENT_S = 6
STEPS = ("train", "share", "collect first", "unmask", "checkpoint rename")
CLEAR = ["--set", "secure.protocol=plain"]


@dataclass
class Launched:
    """A `silofl launch` on two hosts that is over."""

    code: int
    said: str
    path: Path
    seconds: float
    """From what was done to it to its end."""
    restart_seconds: float | None
    """From there to the next committed round."""

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return found


class Launch:
    """`silofl launch` on the hosts of the fixture, in which something happens once a line is said.

    `path` is the run directory, beside which the configuration is, and the log will be. Without `slots` the
    configuration names hosts.
    """

    def __init__(self, both: Any, path: Path, slots: int | tuple[int, ...] | None, *more: str) -> None:
        environ = dict(os.environ) | dict.fromkeys(THREAD_VARIABLES, "1")
        environ |= {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
            "PYTHONUNBUFFERED": "1",
        }
        run = path if both.own is None else both.own / path.name
        line = [sys.executable, "-m", "silofl", "launch", str(path.parent / "quick.toml"), "--run", str(run)]
        if slots is not None:
            slots = slots if isinstance(slots, tuple) else (slots,) * len(both.addresses)
            hosts = [f"{address}:{one}" for address, one in zip(both.addresses, slots, strict=True)]
            line += ["-n", str(sum(slots)), "--host", ",".join(hosts)]
        line += more
        self.both, self.path, self._log = both, path, path.with_suffix(".log")
        self._seen = path if both.own is None else both.folder_of(0) / path.name
        with self._log.open("wb") as output:
            self.process = both.start(line, environ, output)

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + LIMIT_S
        while text not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.01)

    def finish(self, act: Callable[[Any], None]) -> Launched:
        """Do something to the hosts, and wait for the end; nothing may be left on either."""
        began, restart_seconds, rounds = time.monotonic(), None, self._rounds()
        act(self.both)
        while self.process.poll() is None:
            assert time.monotonic() - began < LIMIT_S, self.said()
            if restart_seconds is None and self._rounds() > rounds + 1:
                restart_seconds = time.monotonic() - began
            time.sleep(0.02)
        seconds, end = time.monotonic() - began, time.monotonic() + 2 * SILENT_S + 25
        hosts = range(len(self.both.names))
        while any(self.both.processes(host) for host in hosts):  # a side that is cut off ends by itself
            left = [self.both.processes(host) for host in hosts]
            assert time.monotonic() < end, f"{left}\n{self.said()}"
            time.sleep(0.1)
        return Launched(self.process.returncode, self.said(), self._seen, seconds, restart_seconds)

    def _rounds(self) -> int:
        with contextlib.suppress(OSError):
            return len((self._seen / "metrics.jsonl").read_bytes().splitlines())
        return 0


@pytest.fixture
def both(hosts: Any) -> Iterator[Any]:
    with hosts.two_hosts(MEGABITS) as found:
        yield found


def fault(words: str) -> list[str]:
    return ["--set", f'failure.inject=["{words}"]']


def kill(host: int, *programs: str) -> Callable[[Any], None]:
    """SIGKILL to a program on a host."""

    def act(both: Any) -> None:
        found = [pid for pid, name in both.processes(host).items() if name.startswith(programs)]
        assert found
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    return act


def test_a_run_whose_host_is_lost_goes_on_where_it_was_on_the_other(
    both: Any, start: Start, quick: Path, tmp_path: Path
) -> None:
    one = start(2, "train", str(quick), "--run", "one", *CLEAR).wait(100)
    assert one.code == 0, one.err[-2000:]
    expected = json.loads((tmp_path / "one" / "summary.json").read_text())["model_sha256"]
    launch = Launch(both, tmp_path / "lost", 1, *CLEAR, *fault("hang silo 1 round 4 at step"))
    launch.wait_for("injected fault: hang silo 1")
    end = launch.finish(lambda both: both.kill_host(for_ever=True))
    assert end.code == 0, end.said
    assert "the launcher ended before the ranks had finished the run" in end.said
    assert "does not answer: all silos run on 10.99.0.1:2" in end.said
    assert end.summary["model_sha256"] == expected
    assert end.summary["survivors"] == [0, 1]


@pytest.fixture
def whole(start: Start, quick: Path, tmp_path: Path) -> str:
    """What four silos on one host make."""
    one = start(4, "train", str(quick), "--run", "one").wait(100)
    assert one.code == 0, one.err[-2000:]
    found: str = json.loads((tmp_path / "one" / "summary.json").read_text())["model_sha256"]
    return found


def report(name: str, end: Launched) -> None:
    """For people: times are not asserted."""
    restart = "" if end.restart_seconds is None else f", next round after {end.restart_seconds:.1f} s"
    print(f"{name}: code {end.code} after {end.seconds:.1f} s{restart}")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("for_ever", [True, False], ids=["for ever", "and back"])
@pytest.mark.parametrize("step", STEPS)
def test_a_host_is_killed(both: Any, whole: str, tmp_path: Path, step: str, for_ever: bool) -> None:
    launch = Launch(both, tmp_path / "run", 2, *fault(f"hang silo 2 round 3 at {step}"))
    launch.wait_for("injected fault: hang silo 2")
    end = launch.finish(lambda both: both.kill_host(for_ever=for_ever))
    report(f"host killed at {step}", end)
    assert end.code == 0, end.said
    assert ("does not answer" in end.said) == for_ever
    assert end.summary["model_sha256"] == whole
    assert end.summary["survivors"] == [0, 1, 2, 3]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_only_silo_of_a_host_comes_back_by_a_restart(both: Any, whole: str, tmp_path: Path) -> None:
    launch = Launch(both, tmp_path / "run", (3, 1), *fault("kill silo 3 round 3 at step"))
    launch.wait_for("injected fault: kill silo 3")
    end = launch.finish(lambda both: None)
    report("the only silo of a host", end)
    assert end.code == 0, end.said
    assert "on a host without another silo Open MPI has none back: --resume goes on after round 3" in end.said
    assert end.summary["model_sha256"] == whole
    assert end.summary["survivors"] == [0, 1, 2, 3]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "act", [kill(1, "prted"), kill(0, "prterun", "mpirun")], ids=["the other host's daemon", "mpirun"]
)
def test_a_launcher_is_killed(both: Any, whole: str, tmp_path: Path, act: Callable[[Any], None]) -> None:
    launch = Launch(both, tmp_path / "run", 2, *fault("hang silo 2 round 3 at step"))
    launch.wait_for("injected fault: hang silo 2")
    end = launch.finish(act)
    report("launcher killed", end)
    assert end.code == 0, end.said
    assert "restarting the job from the last committed round" in end.said
    assert end.summary["model_sha256"] == whole


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("restarts", [0, 3])
@pytest.mark.parametrize("step", ["train", "collect first", "allgather"])
def test_the_link_is_cut_for_ever(both: Any, whole: str, tmp_path: Path, step: str, restarts: int) -> None:
    more = ["--restarts", str(restarts), "--set", f"failure.silent_s={SILENT_S}", "--set", "run.rounds=6"]
    launch = Launch(both, tmp_path / "run", 2, *more, *fault(f"slow silo 2 round 3 at {step} x1"))
    launch.wait_for("injected fault: slow silo 2")
    end = launch.finish(lambda both: both.cut())
    report(f"link cut at {step}", end)
    if restarts:
        assert end.code == 0, end.said
        assert end.summary["model_sha256"] == whole
    else:
        assert end.code == 75, end.said
        assert not (end.path / "summary.json").exists()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", ["train", "collect first", "allgather"])
def test_the_link_is_cut_for_ten_seconds(both: Any, whole: str, tmp_path: Path, step: str) -> None:
    more = ["--set", "failure.silent_s=30", *fault(f"slow silo 2 round 3 at {step} x1")]
    launch = Launch(both, tmp_path / "run", 2, *more)
    launch.wait_for("injected fault: slow silo 2")

    def act(both: Any) -> None:
        both.cut()
        time.sleep(10)
        both.join()

    end = launch.finish(act)
    report(f"link cut for 10 s at {step}", end)
    assert end.code == 0, end.said
    assert "restarting" not in end.said
    assert end.summary["model_sha256"] == whole
