"""Strategies and personal models on silos that are unlike: digits, dealt out by Dirichlet(0.1) to 8 silos.

All train the same rounds with the same local work. What a member has to choose is chosen by the mean accuracy
on seeds that do not count after that. Personal models are held to FedAvg's model of the same seed, each on
its own silo's held-out records. Statistics of batch normalization: the model has none.

    python benchmarks/unlike_silos.py [--json FILE] [--plot FILE] [--seeds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import pyplot

from silofl import config as configuration
from silofl.bench.measure import machine
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import TrainingError
from silofl.federation.loop import train

SILOS, ALPHA, ROUNDS, EPOCHS, BATCH, HIDDEN = 8, 0.1, 20, 3, 32, 64
FIRST_TUNING_SEED, TUNING_SEEDS = 100, 2
LOCAL_RATES = (0.05, 0.1, 0.2)
HEAD = ["3.*"]
"""The last layer of the multilayer perceptron."""
LONGEST_S = 1800.0
Tables = dict[str, Any]

STRATEGIES: dict[str, dict[str, tuple[Any, ...]]] = {
    "fedavg": {},
    "fedprox": {"mu": (0.01, 0.1)},
    "scaffold": {},
    "feddyn": {"alpha": (0.01, 0.1)},
    "fednova": {},
    "fedexp": {},
}
"""Their keys, and the values that are tried."""
METHODS: dict[str, dict[str, tuple[Any, ...]]] = {
    "finetune": {},
    "fedper": {"layers": (HEAD,)},
    "fedrep": {"layers": (HEAD,), "head_epochs": (5,)},
    "ditto": {"mu": (0.1, 1.0)},
    "mrmtl": {"mu": (0.1, 1.0)},
    "apfl": {},
    "pfedme": {"mu": (15.0,), "inner_lr": (0.02, 0.05)},
    "perfedavg": {"inner_lr": (0.02, 0.05)},
}


@dataclass(frozen=True)
class Figure:
    """One member: what was chosen, and what it gave in each seed."""

    section: str
    name: str
    lr: float
    keys: Tables
    accuracies: list[float]
    """Of the shared model, over all held-out records; of the silos' own models where those are measured."""
    per_silo: list[list[float]]
    """By seed, each silo's on its own held-out records."""


def run(section: str, name: str, keys: Tables, lr: float, seed: int) -> tuple[float, list[float]]:
    """Accuracy over all held-out records, and on each silo's own; zeros where it diverged."""
    with tempfile.TemporaryDirectory() as folder:
        config = configuration.parse(
            {
                "run": {"rounds": ROUNDS, "evaluate_every": ROUNDS, "seed": seed}
                | {"display": "none", "dir": f"{folder}/run"},
                "task": {"name": "digits", "model": "mlp", "hidden": [HIDDEN]},
                "data": {"partition": "dirichlet", "alpha": ALPHA},
                "train": {"epochs": EPOCHS, "batch_size": BATCH, "lr": lr},
                "checkpoint": {"every": 0, "key_file": f"{folder}/{{silo}}.key"},
                section: {"name": name} | keys,
            }
        )

        def rank(comm: Communicator) -> Tables:
            torch.set_num_threads(1)
            return train(config, comm=comm)

        try:
            summary = run_in_threads(SILOS, rank, timeout_s=LONGEST_S)[0]
        except TrainingError:
            return 0.0, [0.0] * SILOS
    kind = "personal/accuracy" if "personal/accuracy" in summary["metrics"] else "accuracy"
    return summary["metrics"][kind], [silo[kind] for silo in summary["metrics_per_silo"]]


def choices(keys: dict[str, tuple[Any, ...]]) -> Iterator[Tables]:
    """Every combination of the values that are tried."""
    return (dict(zip(keys, values, strict=True)) for values in product(*keys.values()))


def measure(section: str, name: str, keys: dict[str, tuple[Any, ...]], seeds: int, say: Any) -> Figure:
    """Choose, and run the seeds that count."""
    tuning = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + TUNING_SEEDS)
    tried = [
        (statistics.fmean(run(section, name, one, lr, seed)[0] for seed in tuning), lr, one)
        for one, lr in product(choices(keys), LOCAL_RATES)
    ]
    _, lr, chosen = max(tried, key=lambda one: one[0])
    say(f"{name}: {[(round(mean, 4), rate, one) for mean, rate, one in tried]}")
    found = [run(section, name, chosen, lr, seed) for seed in range(seeds)]
    return Figure(section, name, lr, chosen, [one for one, _ in found], [each for _, each in found])


def margin(figure: Figure, base: Figure, *, own: bool) -> list[float]:
    """Points of accuracy ahead of another, a seed each; with `own` of the mean over silos."""
    if not own:
        pairs = zip(figure.accuracies, base.accuracies, strict=True)
    else:
        pairs = zip(map(statistics.fmean, figure.per_silo), map(statistics.fmean, base.per_silo), strict=True)
    return [100 * (one - other) for one, other in pairs]


def spread(values: list[float]) -> str:
    """Mean, and standard deviation over seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.1f} +- {deviation:.1f}"


def table(figures: list[Figure]) -> Table:
    """One row a member."""
    base = figures[0]
    shown = Table(title=f"{SILOS} silos, Dirichlet({ALPHA}), {ROUNDS} rounds of {EPOCHS} epochs")
    for column in ("", "train.lr", "keys", "accuracy, %", "mean over silos, %", "ahead of fedavg, points"):
        shown.add_column(column)
    for one in figures:
        keys = ", ".join(f"{key} = {value}" for key, value in one.keys.items())
        mean = spread([100 * statistics.fmean(each) for each in one.per_silo])
        ahead = spread(margin(one, base, own=one.section == "personal"))
        accuracy = spread([100 * value for value in one.accuracies])
        shown.add_row(one.name, f"{one.lr:g}", keys, accuracy, mean, ahead)
    return shown


def plot(figures: list[Figure], path: Path) -> None:
    """Each silo's accuracy with each member, its seeds' mean as a line."""
    sheet, axes = pyplot().subplots(figsize=(10, 4))
    for place, one in enumerate(figures):
        values = [100 * value for each in one.per_silo for value in each]
        axes.scatter([place] * len(values), values, s=8, alpha=0.4)
        axes.hlines(statistics.fmean(values), place - 0.3, place + 0.3)
    axes.set_xticks(range(len(figures)), [one.name for one in figures], rotation=45)
    axes.set_ylabel("accuracy on a silo's own records, %")
    sheet.tight_layout()
    sheet.savefig(path)


def main() -> None:
    """Measure all, and show them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--plot", type=Path, help="draw them here (.svg, .png)")
    parser.add_argument("--seeds", type=int, default=5, help="that count")
    parser.add_argument("--only", nargs="*", help="names of strategies and methods, beside fedavg")
    given = parser.parse_args()
    console, figures = Console(), list[Figure]()
    for section, members in (("strategy", STRATEGIES), ("personal", METHODS)):
        for name, keys in members.items():
            if name == "fedavg" or given.only is None or name in given.only:
                figures.append(measure(section, name, keys, given.seeds, console.print))
    console.print(table(figures))
    if given.json is not None:
        told = {
            "benchmark": "unlike silos",
            "machine": machine(),
            "figures": [asdict(one) for one in figures],
        }
        given.json.write_text(json.dumps(told, indent=1) + "\n")
    if given.plot is not None:
        plot(figures, given.plot)


if __name__ == "__main__":
    main()
