"""How accurate a model is at a given epsilon, by where the noise of DP-SGD enters.

Every record is protected with (epsilon, 1e-5): by each silo alone (`local`), by shares of noise inside the
secure sum (`distributed`), or by the ranks that serve the sum, which are trusted (`central`). All places take
the same number of steps on the same model, with the same clipping norm and sample rate. Learning rates are
tuned on seeds that do not count after that, for each task, number of silos and epsilon: the smallest of a
grid that comes within one point of the best. `local` also chooses how many steps a round has; `distributed`
takes what was chosen for `central`. Without privacy it is full-batch gradient descent of as many steps.

    python benchmarks/privacy_study.py [--json FILE] [--plot FILE]     what it needs: 'silofl[privacy]'
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import pyplot

from silofl import config as configuration
from silofl.bench.measure import machine
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError, TrainingError
from silofl.federation.loop import train

Tables = dict[str, dict[str, Any]]
TASKS = ("digits", "breast_cancer")
PLACES = ("local", "distributed", "central")
REFERENCE = "none"
DELTA, SEEDS, TUNING_SEEDS = 1e-5, (0, 1, 2, 3, 4), (100, 101)
NEAR = 0.01
LONGEST_S = 1800.0


class Study(NamedTuple):
    """What all trials share."""

    steps: int = 60
    sample_rate: float = 0.5
    clip_norm: float = 1.0
    model: str = "linear"
    rates: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    """Learning rates that are tried."""
    local_rounds: tuple[int, ...] = (6, 60)
    """Over how many rounds `local` spreads the steps; each is tried."""
    colluding: int = 1
    """Silos against whom `distributed` protects; 0: from observers of the model alone, as `central` does."""


@dataclass(frozen=True)
class Cell:
    """One point of the plot."""

    task: str
    silos: int
    partition: str
    place: str
    epsilon: float | None
    """At the end of the run; None without privacy."""


@dataclass(frozen=True)
class Trial:
    """One federation."""

    cell: Cell
    lr: float
    rounds: int
    seed: int
    """Of data and model. Noise is fresh in every trial."""
    repeat: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a trial; `spent` is the accountant's epsilon."""

    trial: Trial
    accuracy: float
    spent: float | None


def tables(study: Study, trial: Trial) -> Tables:
    """The configuration of a trial."""
    cell, once = trial.cell, {"display": "none", "evaluate_every": trial.rounds}
    secure: dict[str, Any] = {"protocol": "plain"}
    if cell.place == "distributed":
        secure = {"protocol": "secagg", "bits": 32}
    found: Tables = {
        "run": {"rounds": trial.rounds, "seed": trial.seed} | once,
        "task": {"name": cell.task, "model": study.model, "hidden": [32]},
        "data": {"partition": cell.partition},
        "secure": secure,
        "checkpoint": {"every": 0},
        "strategy": {"name": "fedsgd", "lr": trial.lr},
    }
    if cell.place == REFERENCE:
        return found | {"train": {"full_batch": True}}
    found["privacy"] = {"unit": "example", "place": cell.place, "target_epsilon": cell.epsilon}
    found["privacy"] |= {"delta": DELTA, "sample_rate": study.sample_rate, "clip_norm": study.clip_norm}
    found["privacy"]["metrics"] = "exact"  # of public data
    if cell.place == "distributed":
        found["privacy"]["colluding"] = study.colluding
    if cell.place == "local":
        found |= {"strategy": {}, "train": {"steps": study.steps // trial.rounds, "lr": trial.lr}}
    return found


def run(study: Study, trial: Trial) -> Outcome:
    """Train with silos as threads of this process, each with a key of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found = tables(study, trial)
        found["run"]["dir"] = f"{folder}/run"
        found["checkpoint"]["key_file"] = f"{folder}/{{silo}}.key"
        config = configuration.parse(found)

        def rank(comm: Communicator) -> dict[str, Any]:
            torch.set_num_threads(1)
            return train(config, comm=comm)

        try:
            summary = run_in_threads(trial.cell.silos, rank, timeout_s=LONGEST_S)[0]
        except TrainingError:  # diverged: the learning rate is not to be chosen
            return Outcome(trial, 0.0, None)
    return Outcome(trial, summary["accuracy"], summary["epsilon"])


class Trials:
    """All outcomes so far, kept in a file of one line each, so that an interrupted study goes on."""

    def __init__(self, study: Study, path: Path | None, jobs: int, say: Callable[[str], object]) -> None:
        self._study, self._path, self._jobs, self._say = study, path, jobs, say
        self._done: dict[Trial, Outcome] = {}
        head = json.dumps(study._asdict())
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        if lines and lines[0] != head:
            raise ConfigError(f"--trials {path} holds another study's runs, {lines[0]}: name another file")
        if path is not None and not lines:
            path.write_text(head + "\n")
        for line in lines[1:]:
            told = json.loads(line)
            trial = Trial(Cell(**told["trial"].pop("cell")), **told["trial"])
            self._done[trial] = Outcome(trial, told["accuracy"], told["spent"])

    def run(self, trials: Iterable[Trial]) -> list[Outcome]:
        """Outcomes in the order of the trials."""
        trials = list(trials)
        missing = [trial for trial in trials if trial not in self._done]
        if missing:
            self._say(f"{len(missing)} federations to train")
            self._run(missing)
        return [self._done[trial] for trial in trials]

    def _run(self, trials: Sequence[Trial]) -> None:
        if self._jobs == 1:
            for trial in trials:
                self._keep(run(self._study, trial))
            return
        with ProcessPoolExecutor(self._jobs, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(run, self._study, trial) for trial in trials]):
                self._keep(done.result())

    def _keep(self, outcome: Outcome) -> None:
        self._done[outcome.trial] = outcome
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")


def candidates(study: Study, cell: Cell) -> list[Trial]:
    """What is tried before it counts."""
    rounds = study.local_rounds if cell.place == "local" else (study.steps,)
    return [Trial(cell, lr, count, 0) for count in rounds for lr in study.rates]


def choose(study: Study, trials: Trials, cells: Iterable[Cell]) -> dict[Cell, Trial]:
    """Each cell's candidate by its mean over the tuning seeds; `distributed` takes central's."""
    tuned = {cell: replace(cell, place="central") if cell.place == "distributed" else cell for cell in cells}
    tried = {cell: candidates(study, cell) for cell in tuned.values()}
    seen: dict[Trial, list[float]] = defaultdict(list)
    asked = [replace(t, seed=seed) for found in tried.values() for t in found for seed in TUNING_SEEDS]
    for outcome in trials.run(asked):
        seen[replace(outcome.trial, seed=0)].append(outcome.accuracy)
    means = {trial: statistics.fmean(accuracies) for trial, accuracies in seen.items()}
    best = {cell: _good({trial: means[trial] for trial in found}) for cell, found in tried.items()}
    return {cell: replace(best[tuned[cell]], cell=cell) for cell in tuned}


def _good(means: Mapping[Trial, float]) -> Trial:
    """The smallest learning rate within `NEAR` of the best: two seeds tell no more than that."""
    near = [trial for trial, mean in means.items() if mean >= max(means.values()) - NEAR]
    return min(near, key=lambda trial: (trial.lr, -means[trial]))


@dataclass(frozen=True)
class Figure:
    """A cell's held-out accuracy over all seeds and repeats."""

    cell: Cell
    lr: float
    rounds: int
    mean: float
    spread: float
    """Standard deviation over the runs."""
    accuracies: list[float]
    """One a run, by seed and repeat; equal places in two cells have the same data and first model."""
    spent: float | None
    """Largest epsilon that the accountant told at the end of a run."""


def measure(study: Study, trials: Trials, cells: Sequence[Cell], repeats: int) -> list[Figure]:
    """Tune and train every cell."""
    chosen = choose(study, trials, cells)
    asked = [
        [replace(chosen[cell], seed=seed, repeat=turn) for turn in range(repeats) for seed in SEEDS]
        for cell in cells
    ]
    trials.run(trial for turn in zip(*asked, strict=True) for trial in turn)  # all cells grow alike
    return [figure(trials.run(of_cell)) for of_cell in asked]


def figure(outcomes: Sequence[Outcome]) -> Figure:
    """Of one cell's runs."""
    accuracies = [outcome.accuracy for outcome in outcomes]
    spent = [outcome.spent for outcome in outcomes if outcome.spent is not None]
    trial = outcomes[0].trial
    mean, spread = statistics.fmean(accuracies), statistics.stdev(accuracies)
    return Figure(trial.cell, trial.lr, trial.rounds, mean, spread, accuracies, max(spent, default=None))


@dataclass(frozen=True)
class Difference:
    """Points of accuracy by which `distributed` is ahead of another place, run by run."""

    cell: Cell
    against: str
    points: float
    error: float
    """Standard error of the mean."""


def differences(figures: Sequence[Figure]) -> list[Difference]:
    """Of every cell of `distributed` against `local` and `central`."""
    by_cell, found = {one.cell: one for one in figures}, []
    for one in figures:
        for against in ("local", "central") if one.cell.place == "distributed" else ():
            other = by_cell[replace(one.cell, place=against)]
            gaps = [100 * (a - b) for a, b in zip(one.accuracies, other.accuracies, strict=True)]
            error = statistics.stdev(gaps) / math.sqrt(len(gaps))
            found.append(Difference(one.cell, against, statistics.fmean(gaps), error))
    return found


def cells_of(
    tasks: Sequence[str], silos: Sequence[int], targets: Sequence[float], partition: str
) -> list[Cell]:
    """Reference and all places of every combination."""
    return [
        Cell(task, n, partition, place, target)
        for n in silos
        for task in tasks
        for place, target in [(REFERENCE, None), *((p, e) for e in targets for p in PLACES)]
    ]


def table(figures: Sequence[Figure]) -> Table:
    """Mean and spread, a line for each task, number of silos and epsilon."""
    shown = {one.cell: one for one in figures}
    out = Table(title="held-out accuracy in %, mean +- spread over runs", title_justify="left")
    for heading in ("task", "silos", "partition", "epsilon", *PLACES, "- local", "- central", "no privacy"):
        out.add_column(heading, justify="left" if heading in ("task", "partition") else "right")
    gaps = {(one.cell, one.against): one for one in differences(figures)}
    for cell in (one.cell for one in figures if one.cell.place == "distributed"):
        against = [gaps[cell, other] for other in ("local", "central")]
        none = replace(cell, place=REFERENCE, epsilon=None)
        out.add_row(
            cell.task,
            str(cell.silos),
            cell.partition,
            f"{cell.epsilon:g}",
            *(_percent(shown[replace(cell, place=place)]) for place in PLACES),
            *(f"{gap.points:+.1f} +- {gap.error:.1f}" for gap in against),
            _percent(shown[none]),
        )
    return out


def _percent(one: Figure) -> str:
    return f"{100 * one.mean:.1f} +- {100 * one.spread:.1f}"


def plot(figures: Sequence[Figure], path: Path) -> None:
    """Accuracy over epsilon: a panel for each task and number of silos, a line for each place."""
    panels = list(dict.fromkeys((f.cell.task, f.cell.silos, f.cell.partition) for f in figures))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    sheet, axes = pyplot().subplots(rows, columns, figsize=(5 * columns, 3.6 * rows), squeeze=False)
    for (task, silos, partition), axis in zip(panels, axes.flat, strict=False):
        ours = [
            f for f in figures if (f.cell.task, f.cell.silos, f.cell.partition) == (task, silos, partition)
        ]
        _panel(axis, ours)
        axis.set(title=f"{task}, {silos} silos, {partition}", xlabel="epsilon", ylabel="accuracy")
    sheet.tight_layout()
    sheet.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(axis: Any, figures: Sequence[Figure]) -> None:
    for place in PLACES:
        line = [f for f in figures if f.cell.place == place]
        x, y = [f.cell.epsilon for f in line], [f.mean for f in line]
        axis.errorbar(x, y, yerr=[f.spread for f in line], marker="o", capsize=3, label=place)
    for one in figures:
        if one.cell.place == REFERENCE:
            axis.axhline(one.mean, color="grey", linestyle=":", label="no privacy")
    axis.set_xscale("log")
    targets = sorted({f.cell.epsilon for f in figures if f.cell.epsilon is not None})
    axis.set_xticks(targets, [f"{target:g}" for target in targets])
    axis.minorticks_off()
    axis.legend(loc="lower right")


def report(study: Study, figures: Sequence[Figure]) -> str:
    """All figures for a program to read."""
    about = {"benchmark": "accuracy by where noise enters", "machine": machine(), "delta": DELTA}
    about |= {"seeds": SEEDS, "tuning_seeds": TUNING_SEEDS, "study": study._asdict()}
    about |= {"cells": [asdict(one.cell) | _told(one) for one in figures]}
    about |= {"distributed_minus": [asdict(one.cell) | _told(one) for one in differences(figures)]}
    return json.dumps(about, indent=2) + "\n"


def _told(one: Figure | Difference) -> dict[str, Any]:
    told = {name: value for name, value in asdict(one).items() if name != "cell"}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in told.items()}


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--silos", nargs="+", type=int, default=[4, 8], help="numbers of silos (4 8)")
    parser.add_argument("--epsilon", nargs="+", type=float, default=[1.0, 3.0, 8.0], help="targets (1 3 8)")
    parser.add_argument("--partition", choices=("iid", "dirichlet", "shards"), default="iid")
    parser.add_argument("--model", choices=("linear", "mlp"), default=Study().model)
    parser.add_argument("--steps", type=int, default=Study().steps, help="of every run (60)")
    parser.add_argument("--colluding", type=int, default=Study().colluding, help="of distributed (1)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of every seed, with other noise (1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--trials", type=Path, help="keep every run here, and go on from what it has")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--plot", type=Path, help="draw them here (.svg, .png)")
    given = parser.parse_args()
    for option in ("steps", "repeats", "jobs"):
        if getattr(given, option) < 1:
            parser.error(f"--{option} must be at least 1, not {getattr(given, option)}")
    return given


def main() -> None:
    """Tune, train and show."""
    given, console = arguments(), Console(width=140)
    rounds = tuple(sorted({max(1, given.steps // 10), given.steps}))
    study = Study(steps=given.steps, model=given.model, local_rounds=rounds, colluding=given.colluding)
    cells = cells_of(given.tasks, given.silos, given.epsilon, given.partition)
    try:
        trials = Trials(study, given.trials, given.jobs, console.print)
        figures = measure(study, trials, cells, given.repeats)
    except ConfigError as error:
        console.print(f"error: {error}")
        raise SystemExit(2) from None
    console.print(table(figures))
    if given.json is not None:
        given.json.write_text(report(study, figures))
    if given.plot is not None:
        plot(figures, given.plot)


if __name__ == "__main__":
    main()
