"""Four silos on a machine with a GPU: what the tests can only play is run there, and its figures are kept.

Each case is a short run of `silofl launch`; `resumed` has to end with the bits of `digits`. Several silos
share a GPU where there are fewer of them.

    python benchmarks/gpu_check.py [--json FILE]         such as benchmarks/results/gpu.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from silofl.bench.measure import machine

ROOT = Path(__file__).resolve().parents[1]
SILOS, LIMIT_S = 4, 150.0
DIGITS, PRIVATE = ROOT / "launch" / "digits.toml", ROOT / "launch" / "private.toml"
FILES = """
[run]
rounds = 3
[task]
name = "files"
classes = 10
model = "mlp"
[data]
path = "silo-{silo}.npz"
"""
KILL = 'failure.inject=["kill silo 1 round 2 at collect"]'

Settings = tuple[str, ...]
CASES: dict[str, tuple[Path | None, Settings]] = {
    "digits": (DIGITS, ("run.rounds=4", "train.epochs=1", "train.keep_optimizer=true")),
    "bfloat16": (DIGITS, ("run.rounds=2", "train.precision=bfloat16")),
    "float16": (DIGITS, ("run.rounds=2", "train.precision=float16")),
    "scaffold": (DIGITS, ("run.rounds=3", "strategy.name=scaffold", "train.momentum=0")),
    "private": (PRIVATE, ("run.rounds=10", "privacy.metrics=exact")),
    "private alone": (
        PRIVATE,
        (
            *("run.rounds=5", "privacy.metrics=exact", "privacy.place=local"),
            *("strategy.name=fedavg", "strategy.lr=1", "train.steps=2"),
        ),
    ),
    "files": (None, ()),
    "killed": (DIGITS, ("run.rounds=4", "failure.policy=respawn", KILL)),
}


@dataclass(frozen=True)
class Outcome:
    """Of one case."""

    case: str
    passed: bool
    seconds: float
    said: str
    """The last line on standard error, where it did not pass."""
    accuracy: float | None = None
    model_sha256: str | None = None


def write_files(folder: Path) -> Path:
    """Real digits dealt to the silos' own NPZ files, and the configuration of a run on them."""
    x, y = load_digits(return_X_y=True)
    for silo in range(SILOS):
        own = slice(silo, None, SILOS)
        np.savez(folder / f"silo-{silo}.npz", x=(x[own] / 16).astype(np.float32), y=y[own])
    path = folder / "files.toml"
    path.write_text(FILES)
    return path


def launch(case: str, config: Path, settings: Settings, folder: Path, *more: str) -> Outcome:
    """One run of all silos, in a folder of its own."""
    run = folder / case.replace(" ", "-")
    sets = [word for one in settings for word in ("--set", one)]
    command = [sys.executable, "-m", "silofl", "launch", "-n", str(SILOS), str(config), "--run", str(run)]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*command, *sets, *more],
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            cwd=config.parent,
        )
        code, said = done.returncode, (done.stderr.strip().splitlines() or [""])[-1]
    except subprocess.TimeoutExpired:
        code, said = 124, f"was not done after {LIMIT_S:g} s"
    seconds = time.monotonic() - began
    path = run / "summary.json"
    if code or not path.exists():
        return Outcome(case, False, seconds, said or f"exit code {code}")
    summary: dict[str, Any] = json.loads(path.read_text())
    return Outcome(case, True, seconds, "", summary.get("accuracy"), summary.get("model_sha256"))


def check(folder: Path, device: str) -> list[Outcome]:
    """All cases, one after the other."""
    own = f"train.device={device}"
    outcomes = []
    for case, (config, settings) in CASES.items():
        outcomes.append(launch(case, config or write_files(folder), (*settings, own), folder))
        print(outcomes[-1], flush=True)
    config, (_, *settings) = DIGITS, CASES["digits"][1]
    first = launch("resumed", config, ("run.rounds=2", *settings, own), folder)
    again = (
        launch("resumed", config, ("run.rounds=4", *settings, own), folder, "--resume")
        if first.passed
        else first
    )
    if again.passed and again.model_sha256 != outcomes[0].model_sha256:
        again = Outcome("resumed", False, again.seconds, "the model has other bits than that of one run")
    print(again, flush=True)
    return [*outcomes, again]


def main() -> int:
    """0 where all passed, 1 where a case did not, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--device", default="cuda", help="cpu: try the script itself")
    given = parser.parse_args()
    if given.device != "cpu" and not torch.cuda.is_available():
        print("gpu_check: torch sees no GPU here: run it where `silofl doctor` names one", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="silofl-gpu-") as folder:
        outcomes = check(Path(folder), given.device)
    if given.json is not None:
        name = "cpu" if given.device == "cpu" else torch.cuda.get_device_name()
        told = {"benchmark": "gpu", "machine": machine() | {"torch": torch.__version__}, "device": name}
        given.json.write_text(
            json.dumps(told | {"cases": [asdict(one) for one in outcomes]}, indent=2) + "\n"
        )
    return 0 if all(one.passed for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
