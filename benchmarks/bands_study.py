"""How much more accurate a model is at a given epsilon with noise that is correlated from round to round.

Digits, the noise in shares inside the secure sum, all records protected with (epsilon, 1e-5), the same number
of steps, sample rate and clipping norm for all. Learning rates are tuned for each number of bands on a seed
that does not count after that. Also measured: the processor time of a silo's noise on 10^6 values.

    python benchmarks/bands_study.py [--json FILE]     what it needs: 'silofl[privacy]'
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from silofl import config as configuration
from silofl.bench.measure import machine
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.crypto.noise_keys import NoiseKeys
from silofl.crypto.secret import Secret
from silofl.errors import TrainingError
from silofl.federation.loop import train
from silofl.federation.privacy.guarantee import plan_for
from silofl.privacy.bands import matrix_for
from silofl.transforms.base import Slice
from silofl.transforms.correlated import CorrelatedNoise, Drawn, NoiseProcess
from silofl.transforms.noise import SiloNoise
from silofl_kernels import CENTRED_VARIANCE, discrete_gaussian

BANDS, MODELS, RATES = (1, 8), ("linear", "mlp"), (0.25, 0.5, 1.0, 2.0)
SEEDS, TUNING_SEEDS, SILOS, DELTA = (0, 1, 2, 3, 4), (100,), 3, 1e-5
VALUES, TURNS, LONGEST_S = 10**6, 21, 1800.0


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    steps: int
    epsilon: float
    sample_rate: float = 0.02
    clip_norm: float = 1.0


@dataclass(frozen=True)
class Figure:
    """Held-out accuracies of one model with so many bands, a seed each."""

    model: str
    bands: int
    lr: float
    accuracies: list[float]
    noise_multiplier: float
    spent: float
    """Epsilon by loss distributions at the end of a run."""


def private(study: Study, bands: int) -> dict[str, Any]:
    """[privacy] but for the noise."""
    return {
        "unit": "example",
        "delta": DELTA,
        "metrics": "exact",  # of public data
        "sample_rate": study.sample_rate,
        "clip_norm": study.clip_norm,
        "bands": bands,
    }


@functools.cache
def noise(study: Study, bands: int) -> tuple[float, float]:
    """The least noise multiplier for the target and the epsilon that it gives, by loss distributions."""
    tables = {"run": {"rounds": study.steps}, "strategy": {"name": "fedsgd"}}
    privacy = private(study, bands) | {"target_epsilon": study.epsilon}
    plan = plan_for(configuration.parse(tables | {"privacy": privacy}), 650, 1437, SILOS, SILOS)
    found = plan.noise_multiplier()
    return found, plan.spent_after(found, study.steps)


def run(study: Study, model: str, bands: int, lr: float, seed: int) -> float:
    """Accuracy of a run with silos as threads of this process; fresh noise each time."""
    with tempfile.TemporaryDirectory() as folder:
        privacy = private(study, bands) | {"noise_multiplier": noise(study, bands)[0]}
        privacy["accountant"] = "rdp"  # which is quicker at telling epsilon after every round
        config = configuration.parse(
            {
                "run": {"rounds": study.steps, "seed": seed, "display": "none", "dir": f"{folder}/run"}
                | {"evaluate_every": study.steps},
                "task": {"name": "digits", "model": model} | ({"hidden": [32]} if model == "mlp" else {}),
                "secure": {"protocol": "secagg", "bits": 32},
                "checkpoint": {"every": 0, "key_file": f"{folder}/{{silo}}.key"},
                "strategy": {"name": "fedsgd", "lr": lr},
                "privacy": privacy,
            }
        )

        def rank(comm: Communicator) -> dict[str, Any]:
            torch.set_num_threads(1)
            return train(config, comm=comm)

        try:
            summary = run_in_threads(SILOS, rank, timeout_s=LONGEST_S)[0]
        except TrainingError:  # diverged: the learning rate is not to be chosen
            return 0.0
    return float(summary["accuracy"])


def measure(study: Study, models: Sequence[str], say: Any) -> list[Figure]:
    """Tune and train the models with each number of bands."""
    found = []
    for model in models:
        for bands in BANDS:
            means = {
                lr: statistics.fmean(run(study, model, bands, lr, seed) for seed in TUNING_SEEDS)
                for lr in RATES
            }
            lr = max(means, key=lambda rate: means[rate])
            say(f"{model}, bands = {bands}: {means}")
            runs = [run(study, model, bands, lr, seed) for seed in SEEDS]
            found.append(Figure(model, bands, lr, runs, *noise(study, bands)))
            say(str(found[-1]))
    return found


def gaps(figures: list[Figure]) -> list[dict[str, Any]]:
    """Points of accuracy by which more bands are ahead of independent noise, over pairs of equal seeds."""
    found = []
    for one in figures:
        for other in figures:
            if one.model == other.model and one.bands > other.bands == 1:
                points = [100 * (a - b) for a, b in zip(one.accuracies, other.accuracies, strict=True)]
                error = statistics.stdev(points) / len(points) ** 0.5
                found.append({"model": one.model, "bands": one.bands, "points": statistics.fmean(points)})
                found[-1] |= {"standard_error": error, "by_seed": points}
    return found


def noise_seconds() -> dict[str, float]:
    """Processor seconds of one silo's noise on `VALUES` words: the median of rounds in turn."""
    matrix, share = matrix_for(8, 200), 1e4
    keys = NoiseKeys(Secret(bytes(range(32))), bytes(16), 0, run=bytes(16))
    process = NoiseProcess(matrix.coefficients[1:], VALUES)
    alone = SiloNoise(discrete_gaussian(share), keys)
    along = CorrelatedNoise(process, discrete_gaussian(share - CENTRED_VARIANCE), keys)
    words, seconds = np.zeros(VALUES, np.uint32), {"1": list[float](), "8": list[float]()}
    for number in range(1, TURNS + 3):
        place, began = Slice(0, number, 0, bytes(32)), time.process_time()
        alone.encode(words, place, words)
        middle = time.process_time()
        process.open(Drawn(number, 0, bytes(32)), (0,), goes_on=number > 1)
        along.encode(words, place, words)
        process.close(along.table, keys, b"", (0,))
        end = time.process_time()
        if number > 2:  # the first compile
            seconds["1"].append(middle - began)
            seconds["8"].append(end - middle)
    return {bands: statistics.median(taken) for bands, taken in seconds.items()}


def table(figures: list[Figure], study: Study) -> Table:
    """Mean and spread of each cell."""
    out = Table(title=f"held-out accuracy in % at epsilon {study.epsilon:g}", title_justify="left")
    for heading in ("model", "bands", "rate", "accuracy", "epsilon"):
        out.add_column(heading)
    for one in figures:
        mean, spread = statistics.fmean(one.accuracies), statistics.stdev(one.accuracies)
        accuracy = f"{100 * mean:.1f} +- {100 * spread:.1f}"
        out.add_row(one.model, str(one.bands), f"{one.lr:g}", accuracy, f"{one.spent:.4g}")
    return out


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--epsilon", type=float, default=4.0)
    parser.add_argument("--noise-only", action="store_true", help="measure the time of noise alone")
    given = parser.parse_args()
    console, study = Console(), Study(given.steps, given.epsilon)
    seconds = noise_seconds()
    console.print(f"noise on {VALUES} values: {seconds}, ratio {seconds['8'] / seconds['1']:.2f}")
    if given.noise_only:
        return
    figures = measure(study, given.models, console.print)
    console.print(table(figures, study), gaps(figures))
    if given.json is not None:
        told = {"machine": machine(), "study": asdict(study), "silos": SILOS, "noise_seconds": seconds}
        told |= {"figures": [asdict(one) for one in figures], "gaps": gaps(figures)}
        given.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
