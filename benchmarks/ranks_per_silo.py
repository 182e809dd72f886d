"""Time of a round's training in one silo: one rank with one thread, with two, and two ranks.

    python benchmarks/ranks_per_silo.py --json benchmarks/results/ranks-per-silo.json

Each way is a process of its own, and they take turns. Nothing is sent to other silos.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WAYS = {"1 rank, 1 thread": (1, 1), "1 rank, 2 threads": (1, 2), "2 ranks, 1 thread each": (2, 1)}
MODELS = {
    "digits cnn, batches of 64": {
        "task": {"name": "digits", "model": "cnn"},
        "train": {"batch_size": 64, "epochs": 1},
    },
    "MLP of 2.9 M parameters, batches of 256": {
        "task": {"factory": "wide:Wide"},
        "train": {"batch_size": 256, "epochs": 1},
    },
}
MEASURED = ("seconds", "first", "processor")
"""Of a round: time that passes, and processor time of the first rank and of all."""
FOLDER = Path(__file__).parent


def serve(tables: dict[str, Any], ranks: int) -> None:
    """Train a round for every line of standard input, and tell its seconds."""
    from silofl import config as configuration
    from silofl.federation.local_work import RoundStart
    from silofl.federation.silo import Silo
    from silofl.federation.team import Team
    from silofl.launcher.process_tree import children_of
    from silofl.strategies.registry import build
    from silofl.tasks import registry as tasks
    from silofl.tasks.user_code import UserCode

    tables["train"] |= {"ranks_per_silo": ranks, "device": "cpu"}
    config, code = configuration.parse(tables), UserCode(0)
    task = tasks.build(config)
    team = None if ranks == 1 else Team(config, task, code, 1, 0)
    silo = Silo(config, task, 0, 1, "cpu", code=code)
    if team is not None:
        team.gather(silo.model, silo.train)
        silo.trainer.team = team
    values, count = silo.initial(), silo.model.trainable
    start = RoundStart({"model": values[:count]}, values[count:], 1, build(config.strategy))
    silo.fit(start)
    print(json.dumps({"parameters": count, "samples": silo.samples}), flush=True)
    every = [os.getpid(), *children_of(os.getpid())]
    for _ in sys.stdin:
        began, before = time.perf_counter(), [worked(pid) for pid in every]
        found = silo.fit(start)
        took, after = time.perf_counter() - began, [worked(pid) for pid in every]
        spent = [b - a for a, b in zip(before, after, strict=True)]
        told = {"seconds": took, "first": spent[0], "processor": sum(spent), "loss": found.loss}
        print(json.dumps(told), flush=True)


def worked(pid: int) -> float:
    """Processor seconds of a process's threads so far."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((one / "schedstat").read_text().split()[0]) for one in threads) / 1e9


def begin(tables: dict[str, Any], ranks: int, threads: int) -> subprocess.Popen[str]:
    """A process that serves one way."""
    code = f"import ranks_per_silo; ranks_per_silo.serve({tables!r}, {ranks})"
    environ = os.environ | {"OMP_NUM_THREADS": str(threads)}
    path = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ["PYTHONPATH"] = os.pathsep.join(path)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=environ, **pipes)


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process says next."""
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def measure(tables: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Seconds of a round, each way in turn: median and quartiles, and what they trained."""
    processes = {way: begin(tables, *WAYS[way]) for way in WAYS}
    result: dict[str, Any] = {}
    for process in processes.values():
        result |= told(process)
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, process in processes.items():
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            rounds[way].append(told(process))
    for process in processes.values():
        process.communicate()
    result["ways"] = {
        way: {key: quartiles([one[key] for one in each]) for key in MEASURED} | {"loss": each[-1]["loss"]}
        for way, each in rounds.items()
    }
    return result


def quartiles(values: list[float]) -> list[float]:
    """The first, the median and the third."""
    return [round(one, 4) for one in statistics.quantiles(values, n=4)]


def main() -> None:
    """Measure all, print a table, write a file where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg()}
    results["models"] = {name: measure(tables, given.repeats) for name, tables in MODELS.items()}
    results["load_after"] = os.getloadavg()
    for name, found in results["models"].items():
        print(f"{name}: {found['parameters']} parameters, {found['samples']} samples")
        for way, one in found["ways"].items():
            texts = [
                f"{key} {one[key][1] * 1000:.0f} ms ({one[key][0] * 1000:.0f} to {one[key][2] * 1000:.0f})"
                for key in MEASURED
            ]
            print(f"  {way:24} {', '.join(texts)}, loss {one['loss']:.8f}")
    print(f"load {results['load_before'][0]:.1f} before, {results['load_after'][0]:.1f} after")
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
