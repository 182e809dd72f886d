"""`silofl bench start`: from `silofl launch` to the end of the first round, beside one `import torch`.

Cold: nothing is running yet, as for a user. Warm: a zygote is there already, as for a job that is restarted.
Alone: every rank loads all libraries itself. The first round is over when its manifest is there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from silofl.bench.measure import Row, row
from silofl.checkpoint.names import MANIFEST, round_name
from silofl.errors import SiloflError
from silofl.launcher.command import python_command
from silofl.launcher.environment import environment_of_ranks
from silofl.launcher.mpi_info import find_launchers
from silofl.launcher.process_tree import descendants
from silofl.launcher.zygote.stub import VARIABLE, Hold

CONFIG = """
[run]
rounds = {rounds}
display = "none"
[task]
name = "digits"
model = "cnn"
[train]
epochs = 2
batch_size = 16
lr = 0.05
"""
ROUNDS = 3
REFERENCE = "import torch"
WAYS = ("cold", "warm", "alone")
POLL_S, LIMIT_S, READY_TIMEOUT_S = 0.005, 300.0, 120.0


def run(
    silos: Sequence[int], *, repeats: int, told: Callable[[str], None] = lambda line: None
) -> tuple[list[Row], list[str]]:
    """Rows of each number of silos and each way, turn by turn, and notes on the ranks' memory."""
    times: dict[str, list[float]] = {REFERENCE: []}
    memory: dict[int, list[float]] = {count: [] for count in silos}
    for repeat in range(repeats):
        told(f"turn {repeat + 1} of {repeats}")
        times[REFERENCE].append(_import_torch())
        for count in silos:
            for way in WAYS:
                seconds, own = _first_round(count, way)
                times.setdefault(f"{count} silos, {way}", []).append(seconds)
                memory[count] += own if way == "cold" else []
    rows = [row(name, found, REFERENCE, times[REFERENCE], 0.0, "") for name, found in times.items()]
    kinds = "a rank, its stub and its watchdog share with no other process"
    notes = [
        f"{count} silos, cold: {max(found):.0f} MiB of memory at most {kinds}"
        for count, found in memory.items()
        if found
    ]
    return rows, notes


def _import_torch() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True, timeout=LIMIT_S)
    return time.perf_counter() - began


def _first_round(silos: int, way: str) -> tuple[float, list[float]]:
    """Seconds until the first round is committed; of each silo, MiB that no other process shares."""
    folder = Path(tempfile.mkdtemp(prefix="silofl-start-"))
    environ = {**os.environ, VARIABLE: "0" if way == "alone" else ""}
    with ExitStack() as kept:
        kept.callback(shutil.rmtree, folder, ignore_errors=True)
        if way == "warm":
            hold = kept.enter_context(Hold(environment_of_ranks(environ, find_launchers(None))))
            if not hold.ready_within(READY_TIMEOUT_S):
                raise SiloflError("no zygote has started: its ranks would load everything themselves")
        (folder / "start.toml").write_text(CONFIG.format(rounds=ROUNDS))
        first = folder / "run" / "checkpoints" / round_name(1) / MANIFEST
        line = [*python_command(), "launch", "-n", str(silos), str(folder / "start.toml")]
        began = time.perf_counter()
        job = subprocess.Popen(
            [*line, "--run", str(folder / "run")],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        seconds, own = None, []
        while job.poll() is None and time.perf_counter() - began < LIMIT_S:
            if first.exists() and seconds is None:
                seconds = time.perf_counter() - began
                own = _own_memory(job.pid, silos)
            time.sleep(POLL_S)
        job.terminate()
        said = job.communicate()[1].strip().splitlines()
    if seconds is None or job.returncode:
        raise SiloflError(f"a federation of {silos} silos ({way}) did not come to its end: {said[-1:]}")
    return seconds, own


def _own_memory(launch: int, silos: int) -> list[float]:
    """MiB that ranks do not share with others, of all processes below `launch` but the zygote, by silo."""
    amounts = []
    for process in descendants(launch):
        with suppress(OSError):
            name = Path(f"/proc/{process}/comm").read_text().strip()
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if name in {"silofl-rank", "silofl-watchdog"} or b"train" in words:
                amounts.append(_unshared(process))
    return [sum(amounts) / silos] if amounts else []


def _unshared(process: int) -> float:
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return sum(int(number) for number in re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE)) / 1024
