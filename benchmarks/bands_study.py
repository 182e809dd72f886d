"""How much more accurate a model is at a given epsilon with noise that is correlated from round to round.

Digits, the noise in shares inside the secure sum, all records protected with (epsilon, 1e-5), the same number
of steps, sample rate and clipping norm for all. Learning rate and momentum are tuned for each number of bands
on seeds that do not count after that. Also measured: the processor time of a silo's noise on 10^6 values, and
with `--only rounds` that of whole rounds, by runs with and without bands in turn. `--only expected` tells,
without a model, which part of independent noise's error each number of bands would leave.

    python benchmarks/bands_study.py [--json FILE]     what it needs: 'silofl[privacy]'
"""

from __future__ import annotations

import argparse
import functools
import itertools
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
from silofl.privacy.band_choice import CHOICES, errors_of
from silofl.privacy.bands import matrix_for
from silofl.transforms.base import Slice
from silofl.transforms.correlated import CorrelatedNoise, Drawn, NoiseProcess
from silofl.transforms.noise import SiloNoise
from silofl_kernels import CENTRED_VARIANCE, discrete_gaussian

MODELS, SILOS, DELTA = ("linear", "mlp"), 3, 1e-5
FIRST_TUNING_SEED = 100
VALUES, TURNS, LONGEST_S = 10**6, 21, 1800.0
EXPECTED_STEPS, EXPECTED_RATES, EXPECTED_EPSILONS = (
    (200, 1000),
    (0.01, 0.02, 0.05, 0.1, 0.2),
    (1, 2, 4, 8, 16),
)
PAIRS, ROUNDS, WARM = 8, 24, 9
"""Of `round_seconds`: pairs of runs, rounds of a run, and how many of those come before any is counted."""
HIDDEN = {650: None, 10**6: 13_333}
"""Widths of the hidden layer, so that models have about so many values."""


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    steps: int
    epsilon: float
    sample_rate: float
    bands: tuple[int, ...]
    rates: tuple[float, ...]
    """By which the model moves in all for a gradient: lr / (1 - momentum)."""
    momenta: tuple[float, ...]
    seeds: int
    tuning_seeds: int
    clip_norm: float = 1.0


@dataclass(frozen=True)
class Figure:
    """Held-out accuracies of one model with so many bands, a seed each."""

    model: str
    bands: int
    lr: float
    momentum: float
    tuned: dict[str, float]
    """Mean accuracy over the tuning seeds, by rate and momentum."""
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


def run(study: Study, model: str, bands: int, sgd: tuple[float, float], seed: int) -> float:
    """Accuracy of a run by (learning rate, momentum), silos as threads; fresh noise each time."""
    with tempfile.TemporaryDirectory() as folder:
        privacy = private(study, bands) | {"noise_multiplier": noise(study, bands)[0]}
        task = {"model": model} | ({"hidden": [32]} if model == "mlp" else {})
        config = settings(folder, task, privacy, study.steps, {"seed": seed, "evaluate_every": study.steps})
        strategy = config.strategy.model_copy(update=dict(zip(("lr", "momentum"), sgd, strict=True)))
        try:
            summary = trained(config.model_copy(update={"strategy": strategy}))
        except TrainingError:  # diverged: the learning rate is not to be chosen
            return 0.0
    return float(summary["accuracy"])


def settings(
    folder: str, task: dict[str, Any], privacy: dict[str, Any], rounds: int, run: dict[str, Any]
) -> configuration.Config:
    """Of a run in `folder`."""
    return configuration.parse(
        {
            "run": {"rounds": rounds, "display": "none", "dir": f"{folder}/run"} | run,
            "task": {"name": "digits"} | task,
            "secure": {"protocol": "secagg", "bits": 32},
            "checkpoint": {"every": 0, "key_file": f"{folder}/{{silo}}.key"},
            "strategy": {"name": "fedsgd"},
            "privacy": {"accountant": "rdp"} | privacy,  # quicker at telling epsilon after every round
        }
    )


def trained(config: configuration.Config) -> dict[str, Any]:
    """The summary of a run with silos as threads of this process."""

    def rank(comm: Communicator) -> dict[str, Any]:
        torch.set_num_threads(1)
        return train(config, comm=comm)

    return dict(run_in_threads(SILOS, rank, timeout_s=LONGEST_S)[0])


def measure(study: Study, models: Sequence[str], say: Any) -> list[Figure]:
    """Tune and train the models with each number of bands."""
    found = []
    for model in models:
        for bands in study.bands:
            means = tune(study, model, bands)
            lr, momentum = best = max(means, key=lambda sgd: means[sgd])
            tuned = {f"rate {lr / (1 - mu):.4g}, momentum {mu:g}": mean for (lr, mu), mean in means.items()}
            say(f"{model}, bands = {bands}: {tuned}")
            runs = [run(study, model, bands, best, seed) for seed in range(study.seeds)]
            found.append(Figure(model, bands, lr, momentum, tuned, runs, *noise(study, bands)))
            say(str(found[-1]))
    return found


def tune(study: Study, model: str, bands: int) -> dict[tuple[float, float], float]:
    """Mean accuracy over the tuning seeds, by learning rate and momentum."""
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + study.tuning_seeds)
    tried = [(rate * (1 - mu), mu) for mu in study.momenta for rate in study.rates]
    return {sgd: statistics.fmean(run(study, model, bands, sgd, seed) for seed in seeds) for sgd in tried}


def round_seconds(values: int) -> dict[str, Any]:
    """Wall seconds of a round with 1 and 8 bands: medians of runs, in turn, and quartiles of their ratio."""
    hidden, taken = HIDDEN[values], {1: list[float](), 8: list[float]()}
    task = {"model": "linear"} if hidden is None else {"model": "mlp", "hidden": [hidden]}
    for pair in range(PAIRS):
        for bands in (1, 8) if pair % 2 else (8, 1):
            privacy = {"unit": "example", "sample_rate": 0.02, "noise_multiplier": 2.0, "bands": bands}
            with tempfile.TemporaryDirectory() as folder:
                trained(settings(folder, task, privacy, ROUNDS, {}))
                lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
            counted = [json.loads(line)["seconds"] for line in lines][WARM:]
            taken[bands].append(statistics.median(counted))
    ratios = [many / one for one, many in zip(taken[1], taken[8], strict=True)]
    quartiles = {str(bands): statistics.quantiles(seconds, n=4) for bands, seconds in taken.items()}
    told = {"values": values, "pairs": PAIRS, "rounds_of_a_run": ROUNDS - WARM, "quartiles_s": quartiles}
    return told | {"ratio_quartiles": statistics.quantiles(ratios, n=4)}


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


def expected() -> list[dict[str, Any]]:
    """Error in the sum of all rounds at equal epsilon, over that of independent noise, by number of bands."""
    found = []
    for steps, rate, epsilon in itertools.product(EXPECTED_STEPS, EXPECTED_RATES, EXPECTED_EPSILONS):
        choices = [bands for bands in CHOICES if bands * rate <= 1]
        tables = {"run": {"rounds": steps}, "strategy": {"name": "fedsgd"}}
        privacy = {"unit": "example", "delta": DELTA, "sample_rate": rate, "target_epsilon": epsilon}
        plan = plan_for(configuration.parse(tables | {"privacy": privacy}), 650, 1437, SILOS, SILOS)
        errors = errors_of(plan, choices)
        cell = {"steps": steps, "sample_rate": rate, "epsilon": epsilon}
        found.append(cell | {"part": {str(bands): one / errors[1] for bands, one in errors.items()}})
    return found


def table(figures: list[Figure], study: Study) -> Table:
    """Mean and spread of each cell."""
    out = Table(title=f"held-out accuracy in % at epsilon {study.epsilon:g}", title_justify="left")
    for heading in ("model", "bands", "lr", "momentum", "accuracy", "epsilon"):
        out.add_column(heading)
    for one in figures:
        mean, spread = statistics.fmean(one.accuracies), statistics.stdev(one.accuracies)
        accuracy = f"{100 * mean:.1f} +- {100 * spread:.1f}"
        sgd = f"{one.lr:.3g}", f"{one.momentum:g}"
        out.add_row(one.model, str(one.bands), *sgd, accuracy, f"{one.spent:.4g}")
    return out


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--epsilon", type=float, default=4.0)
    parser.add_argument("--sample-rate", type=float, default=0.02)
    parser.add_argument("--bands", nargs="+", type=int, default=(1, 8))
    parser.add_argument("--rates", nargs="+", type=float, default=(0.5, 0.71, 1.0, 1.41, 2.0))
    parser.add_argument("--momenta", nargs="+", type=float, default=(0.0, 0.9))
    parser.add_argument("--seeds", type=int, default=5, help="how many count")
    parser.add_argument("--tuning-seeds", type=int, default=2)
    parser.add_argument("--only", choices=("noise", "rounds", "expected"), help="what to tell of instead")
    return parser.parse_args()


def main() -> None:
    """See the module."""
    given, console = parsed(), Console()
    told: dict[str, Any] = {"machine": machine(), "silos": SILOS}
    if given.only == "expected":
        told["expected"] = expected()
    elif given.only == "rounds":
        told["round_seconds"] = [round_seconds(values) for values in HIDDEN]
    else:
        seconds = told["noise_seconds"] = noise_seconds()
        console.print(f"noise on {VALUES} values: {seconds}, ratio {seconds['8'] / seconds['1']:.2f}")
    if given.only is None:
        lists = (tuple(one) for one in (given.bands, given.rates, given.momenta))
        study = Study(given.steps, given.epsilon, given.sample_rate, *lists, given.seeds, given.tuning_seeds)
        figures = measure(study, given.models, console.print)
        console.print(table(figures, study))
        told |= {"study": asdict(study), "figures": [asdict(one) for one in figures], "gaps": gaps(figures)}
    if given.json is not None:
        given.json.write_text(json.dumps(told, indent=2) + "\n")
    console.print_json(json.dumps(told))


if __name__ == "__main__":
    main()
