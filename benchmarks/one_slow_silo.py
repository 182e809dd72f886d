"""One silo of four five times slower: synchronous and asynchronous rounds on real ranks, as predicted.

A step takes `--step` seconds, in which a silo sleeps as if it waited for its accelerator, and five times that
at silo 3. Both federations run by `silofl launch` until `--target`; then `silofl simulate` is asked, with the
seconds of the synchronous run's metrics, how long each would take.

    python benchmarks/one_slow_silo.py [--json FILE] [--seeds 1]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from silofl.bench.measure import machine
from silofl.config import DataConfig, TaskConfig
from silofl.federation.pace_comparison import Goal
from silofl.tasks.base import SiloData
from silofl.tasks.digits import Digits

SILOS, SLOW, TIMES, ROUNDS, BUFFER = 4, 3, 5, 12, 3
STEP_S = "SILOFL_BENCHMARK_STEP_S"
"""Environment variable of a step's seconds."""
LONGEST_S = 900.0
HERE = Path(__file__).resolve()


class PacedDigits(Digits):  # type: ignore[misc]  # final, for who reads it
    """Digits on a device of which a step takes so long."""

    def __init__(self) -> None:
        super().__init__(TaskConfig(name="digits", model="mlp"), DataConfig(), 0)
        self._step_s = float(os.environ.get(STEP_S, "0"))

    def data(self, silo: int, silos: int) -> SiloData:
        """This silo's digits; whether it is the slow one."""
        self._step_s *= TIMES if silo == SLOW else 1
        return super().data(silo, silos)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Cross-entropy; in training after the time of a step."""
        if model.training:
            time.sleep(self._step_s)
        return super().loss(model, batch)


def settings(path: Path, seed: int, topology: str, rounds: int) -> list[str]:
    """Arguments of `silofl`, but for the command."""
    keys = {
        "run.rounds": rounds,
        "run.seed": seed,
        "run.dir": path,
        "run.display": "none",
        "train.lr": 0.1,
        "train.batch_size": 32,
        "train.epochs": 1,
        "secure.protocol": "secagg",
        "topology.name": topology,
    }
    keys |= {"topology.buffer": BUFFER} if topology == "asynchronous" else {}
    return [f"--set={key}={value}" for key, value in keys.items()]


def call(command: list[str], step_s: float) -> None:
    """Run `silofl` with the task of this file; SystemExit where it fails."""
    env = os.environ | {STEP_S: str(step_s), "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "silofl", *command],
        env=env,
        capture_output=True,
        check=False,
        text=True,
        timeout=LONGEST_S,
    )
    if done.returncode:
        sys.exit(done.stderr)


def measured(path: Path, goal: Goal) -> tuple[int | None, float]:
    """The round that reached the goal, and the wall clock of the rounds until then."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    reached = goal.reached(lines)
    return reached, sum(line["seconds"] for line in lines[:reached])


def study(folder: Path, seed: int, step_s: float, target: str) -> dict[str, Any]:
    """Both runs of a seed, and what is predicted of them."""
    config = folder / "slow.toml"
    config.write_text(f'[task]\nfactory = "{HERE.stem}:PacedDigits"\n')
    goal, found = Goal.named(target), dict[str, Any](seed=seed)
    for name, topology, rounds in (
        ("synchronous", "sharded", ROUNDS),
        ("buffered", "asynchronous", 2 * ROUNDS),
    ):
        path = folder / f"{name}-{seed}"
        call(["launch", str(config), "-n", str(SILOS), *settings(path, seed, topology, rounds)], step_s)
        found[name] = dict(zip(("rounds", "seconds"), measured(path, goal), strict=True))
    told = folder / f"simulated-{seed}.json"
    asked = settings(folder / "none", seed, "asynchronous", ROUNDS)
    seconds = ["--from", str(folder / f"synchronous-{seed}")]
    call(["simulate", str(config), *asked, *seconds, "--target", target, "--json", str(told)], 0.0)
    for one in json.loads(told.read_text())["policies"]:
        if one["policy"] in found:
            found[one["policy"]] |= {"predicted": one["seconds"], "predicted_rounds": one["rounds"]}
    return found


def main() -> None:
    """Measure, predict, and print one line a seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write what was measured here")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--step", type=float, default=0.04, help="seconds of a local step")
    parser.add_argument("--target", default="accuracy>=0.85", help="when a run is there")
    given = parser.parse_args()
    table = Table("seed", "waits", "rounds", "seconds", "predicted rounds", "predicted s", "of synchronous")
    with tempfile.TemporaryDirectory() as folder:
        rows = [study(Path(folder), seed, given.step, given.target) for seed in range(given.seeds)]
    for row in rows:
        for name in ("synchronous", "buffered"):
            one = row[name]
            texts = one["rounds"], f"{one['seconds']:.2f}", one["predicted_rounds"], f"{one['predicted']:.2f}"
            part = one["seconds"] / row["synchronous"]["seconds"]
            table.add_row(str(row["seed"]), name, *map(str, texts), f"{part:.2f}")
    Console().print(table)
    if given.json is not None:
        told = {"machine": machine(), "step_s": given.step, "target": given.target, "rows": rows}
        given.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
