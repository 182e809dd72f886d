"""Accuracy against bytes: [compress] and [prune] on digits, dealt out by Dirichlet(0.5) to 4 silos, secagg.

A perceptron whose update is long beside a round's keys, with the training settings of launch/digits.toml. The
learning rate is chosen without compression, on seeds that do not count after that, and is that of all rows.
Every row is held to the run of the same seed under the secure sum without compression; bytes are what a silo
sent in a round for the sum, its keys and the new model, as its communicator counted them, the mean over all
rounds: with [prune] the first ones have all weights.

A FILE of an earlier run that did not come to its end is gone on with.

    python benchmarks/compression_study.py [--json FILE] [--plot FILE] [--seeds 5] [--jobs 2]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
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

SILOS, ALPHA, ROUNDS, EPOCHS, BATCH, MOMENTUM, HIDDEN = 4, 0.5, 20, 2, 16, 0.9, [512, 512]
TUNING_SEEDS = (100, 101)
RATES = (0.025, 0.05, 0.1)
LONGEST_S = 1800.0
Tables = dict[str, Any]

CLEAR, SECURE = "float32 in the clear", "secagg, 16 bits up"
"""What bytes and what accuracy are held to."""
FEEDBACK: Tables = {"rotation": True, "error_feedback": True}
IN_WORDS = {"rotation": "rotation", "error_feedback": "error feedback"}


def name_of(compress: Tables) -> str:
    """A row's name."""
    codec = f"{compress['name']} {compress['ratio']:g}, " if "name" in compress else ""
    return ", ".join(
        [f"{codec}{compress['bits']} bits", *(IN_WORDS[key] for key in compress if key in IN_WORDS)]
    )


def compressed() -> Iterator[Tables]:
    """[compress] of every row that has one."""
    yield from ({"bits": bits} for bits in (16, 8, 4))
    yield {"bits": 4, "rotation": True}
    yield {"bits": 4, "error_feedback": True}
    yield {"bits": 4} | FEEDBACK
    for beside, bits, ratio in product((FEEDBACK, {}), (4, 8), (0.5, 0.25, 0.1)):
        yield {"name": "random_k", "ratio": ratio, "bits": bits} | beside
    for ratio in (0.2, 0.1, 0.05):
        yield {"name": "count_sketch", "ratio": ratio, "kept": ratio / 10, "bits": 8} | FEEDBACK
    yield {"name": "count_sketch", "ratio": 0.1, "kept": 0.01, "bits": 8}


PRUNE: Tables = {"name": "magnitude", "density": 0.1, "end": 10}
PRUNED: dict[str, Tables] = {
    "prune 10 %": {"prune": PRUNE},
    "prune 10 %, 4 bits, rotation": {"prune": PRUNE, "compress": {"bits": 4, "rotation": True}},
    "prune 10 %, 8 bits, rotation, error feedback": {"prune": PRUNE, "compress": {"bits": 8} | FEEDBACK},
}
PACKETS: dict[str, Tables] = {
    f"top_k {ratio:g}, error feedback, in the clear": {
        "compress": {"name": "top_k", "ratio": ratio, "error_feedback": True},
        "secure": {"protocol": "plain"},
    }
    for ratio in (0.01, 0.004)
}
ROWS: dict[str, Tables] = {
    CLEAR: {"secure": {"protocol": "plain"}},
    SECURE: {},
    **{name_of(one): {"compress": one} for one in compressed()},
    **PACKETS,
    **PRUNED,
}
"""What each sets beside the training settings."""


@dataclass(frozen=True)
class Figure:
    """One row: what it gave in each seed."""

    name: str
    sections: Tables
    accuracies: list[float]
    """Over all held-out records; 0 where training diverged."""
    bytes_sent: list[int]
    """By a silo in a round, the mean over rounds."""


def run(sections: Tables, lr: float, seed: int) -> tuple[float, int]:
    """Accuracy over all held-out records, and bytes a silo sends in a round; zeros where it diverged."""
    with tempfile.TemporaryDirectory() as folder:
        config = configuration.parse(
            {
                "run": {"rounds": ROUNDS, "evaluate_every": ROUNDS, "seed": seed}
                | {"display": "none", "dir": f"{folder}/run"},
                "task": {"name": "digits", "model": "mlp", "hidden": HIDDEN},
                "data": {"partition": "dirichlet", "alpha": ALPHA},
                "train": {"epochs": EPOCHS, "batch_size": BATCH, "lr": lr, "momentum": MOMENTUM},
                "checkpoint": {"every": 0, "key_file": f"{folder}/{{silo}}.key"},
            }
            | sections
        )

        def rank(comm: Communicator) -> Tables:
            torch.set_num_threads(1)
            return train(config, comm=comm)

        try:
            summary = run_in_threads(SILOS, rank, timeout_s=LONGEST_S)[0]
        except TrainingError:
            return 0.0, 0
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    sent = [json.loads(line)["bytes_sent"] for line in lines]
    return summary["accuracy"], round(statistics.fmean(sent))


def tune(pool: Executor, say: Any) -> float:
    """The learning rate that is best on average without compression."""
    tried = list(product(RATES, TUNING_SEEDS))
    found = pool.map(run, [{}] * len(tried), *zip(*tried, strict=True))
    by_rate: dict[float, list[float]] = {}
    for (lr, _), (accuracy, _) in zip(tried, found, strict=True):
        by_rate.setdefault(lr, []).append(accuracy)
    means = {lr: statistics.fmean(each) for lr, each in by_rate.items()}
    say(f"train.lr: {means}")
    return max(means, key=lambda lr: means[lr])


def behind(figure: Figure, base: Figure) -> list[float]:
    """Points of accuracy behind another, for each seed in which training did not diverge."""
    pairs = zip(figure.accuracies, base.accuracies, strict=True)
    return [100 * (other - one) for one, other in pairs if one]


def spread(values: list[float]) -> str:
    """Mean, and standard deviation over seeds; empty without values."""
    if not values:
        return ""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.2f} +- {deviation:.2f}"


def sent(figure: Figure) -> float:
    """Bytes of a round, the same in every seed; not a number where all seeds diverged."""
    return max(figure.bytes_sent) or math.nan


def fewer(figure: Figure, clear: Figure) -> float:
    """By which factor fewer bytes than another's."""
    return sent(clear) / sent(figure)


def table(figures: list[Figure], lr: float) -> Table:
    """One row a figure; the first two are what the others are held to."""
    clear, secure = figures[:2]
    shown = Table(title=f"{SILOS} silos, Dirichlet({ALPHA}), {ROUNDS} rounds, train.lr = {lr:g}")
    for column in (
        "",
        "accuracy, %",
        "behind, points",
        "bytes a silo sends a round",
        "times fewer",
        "diverged",
    ):
        shown.add_column(column)
    for one in figures:
        accuracy = spread([100 * value for value in one.accuracies if value])
        diverged = f"{one.accuracies.count(0.0)} of {len(one.accuracies)}" if 0.0 in one.accuracies else ""
        cells = [accuracy, spread(behind(one, secure)), f"{sent(one):,.0f}", f"{fewer(one, clear):.2f}"]
        shown.add_row(one.name, *cells, diverged)
    return shown


def plot(figures: list[Figure], path: Path) -> None:
    """How far each is behind over its bytes, with the standard deviation over seeds."""
    clear, secure = figures[:2]
    figures = [one for one in figures if all(one.accuracies)]
    sheet, axes = pyplot().subplots(figsize=(10, 5))
    kinds = {
        "with error feedback": [one for one in figures if "error feedback" in one.name],
        "without": [one for one in figures if "error feedback" not in one.name],
    }
    for kind, members in kinds.items():
        lost = [behind(one, secure) for one in members]
        means, spreads = map(statistics.fmean, lost), map(statistics.stdev, lost)
        axes.errorbar(
            [fewer(one, clear) for one in members], [*means], yerr=[*spreads], fmt="o", capsize=3, label=kind
        )
        for one, each in zip(members, lost, strict=True):
            short = one.name.replace(", rotation, error feedback", "")
            axes.annotate(short, (fewer(one, clear), statistics.fmean(each)), fontsize=7, rotation=30)
    axes.axhline(1.0, linewidth=0.8, linestyle="--", color="grey")
    axes.set(
        xscale="log", xlabel="times fewer bytes than float32 in the clear", ylabel="points behind, symlog"
    )
    axes.set_yscale("symlog", linthresh=2.0)
    ticks = [1, 2, 4, 8, 16, 32, 64]
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.legend(loc="lower left")
    sheet.tight_layout()
    sheet.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def to_json(figures: list[Figure], lr: float) -> str:
    """The figures and the machine for a program to read."""
    told: Tables = {"benchmark": "compression study", "machine": machine() | {"torch": torch.__version__}}
    told |= {"silos": SILOS, "alpha": ALPHA, "rounds": ROUNDS, "hidden": HIDDEN, "lr": lr}
    told |= {"figures": [asdict(one) for one in figures]}
    return json.dumps(told, indent=1) + "\n"


def measured(path: Path | None) -> tuple[float | None, dict[str, Figure]]:
    """The learning rate and the rows that a file has already."""
    if path is None or not path.exists():
        return None, {}
    told = json.loads(path.read_text())
    return told["lr"], {one["name"]: Figure(**one) for one in told["figures"]}


def measure(pool: Executor, rows: dict[str, Tables], lr: float, seeds: int) -> Iterator[Figure]:
    """These rows, one after another, each in all seeds."""
    wanted = list(product(rows.values(), range(seeds)))
    found = pool.map(run, [one for one, _ in wanted], [lr] * len(wanted), [seed for _, seed in wanted])
    for name, sections in rows.items():
        each = [next(found) for _ in range(seeds)]
        yield Figure(name, sections, [accuracy for accuracy, _ in each], [sent for _, sent in each])


def main() -> None:
    """Measure all, and show them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--plot", type=Path, help="draw them here (.svg, .png)")
    parser.add_argument("--seeds", type=int, default=5, help="that count")
    parser.add_argument("--lr", type=float, help="train.lr, instead of one that is chosen")
    parser.add_argument("--only", nargs="*", help="names of rows, beside the first two")
    parser.add_argument("--jobs", type=int, default=2, help="federations at a time, a process each")
    given = parser.parse_args()
    console, context = Console(width=120), multiprocessing.get_context("spawn")
    rows = {
        name: sections
        for place, (name, sections) in enumerate(ROWS.items())
        if place < 2 or given.only is None or name in given.only
    }
    lr, found = measured(given.json)
    lr = given.lr if lr is None else lr
    with ProcessPoolExecutor(given.jobs, mp_context=context) as pool:
        lr = tune(pool, console.print) if lr is None else lr
        missing = {name: sections for name, sections in rows.items() if name not in found}
        for figure in measure(pool, missing, lr, given.seeds):
            console.print(figure)
            found[figure.name] = figure
            if given.json is not None:
                given.json.write_text(to_json([found[name] for name in ROWS if name in found], lr))
    figures = [found[name] for name in ROWS if name in found]
    console.print(table(figures, lr))
    if given.plot is not None:
        plot(figures, given.plot)


if __name__ == "__main__":
    main()
