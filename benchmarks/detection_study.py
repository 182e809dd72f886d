"""Detection under attack: when attackers are excluded, and which honest silos are, on digits, 10 silos.

Silos are threads of one process and train the linear model of the built-in task for 50 rounds, with
`detection.mode = "exclude"` and nothing else set. Data are dealt out alike (iid) and by Dirichlet(0.5); none,
2 or 3 silos attack, the last ones. Tables are Markdown, one for each split and number of attackers: a row for
each attack and rule; the round after which all attackers were excluded, and how many of them ever were; how
many honest silos were, and how many of their updates were left out; and the accuracy after the last round,
with detection and without it.

    python benchmarks/detection_study.py [--attacks alie] [--attackers 0 2 3] [--rules none median]
        [--splits iid dirichlet] [--rounds 50] [--seeds 1] [--jobs 1] [--twins] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from silofl import config as configuration
from silofl.bench.measure import machine
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import SiloflError
from silofl.federation.loop import train

SILOS, LONGEST_S = 10, 900.0
SPLITS: dict[str, dict[str, Any]] = {
    "iid": {"partition": "iid"},
    "dirichlet": {"partition": "dirichlet", "alpha": 0.5},
}
ATTACKS: dict[str, dict[str, Any]] = {
    "sign_flip x 10": {"name": "sign_flip", "scale": 10.0},
    "gaussian 200": {"name": "gaussian", "deviation": 200.0},
    "inner_product x 10": {"name": "inner_product", "epsilon": 10.0, "omniscient": True},
    "backdoor, replacing": {"name": "backdoor"},
    "not_a_number": {"name": "not_a_number"},
    "sign_flip": {"name": "sign_flip"},
    "inner_product x 0.5": {"name": "inner_product", "omniscient": True},
    "free_rider": {"name": "free_rider"},
    "alie": {"name": "alie", "omniscient": True},
    "mimic": {"name": "mimic", "omniscient": True},
    "label_flip": {"name": "label_flip"},
}
"""Strong ones first."""


@dataclass(frozen=True)
class Case:
    """One run."""

    attack: str
    rule: str
    attackers: int
    split: str
    rounds: int
    seed: int
    detects: bool = True

    def tables(self, path: str) -> dict[str, Any]:
        """Its configuration."""
        silos = list(range(SILOS - self.attackers, SILOS))
        return {
            "run": {"dir": path, "display": "none", "rounds": self.rounds, "seed": self.seed,
                    "evaluate_every": self.rounds},
            "task": {"name": "digits", "model": "linear"},
            "data": SPLITS[self.split],
            "train": {"epochs": 2, "batch_size": 16, "lr": 0.1},
            "secure": {"protocol": "plain"},
            "checkpoint": {"every": self.rounds},
            "robust": {"name": self.rule} | ({"f": max(1, self.attackers)} if self.rule != "none" else {}),
            "detection": {"mode": "exclude"} if self.detects else {},
            "attack": {} if self.attack == "none" else {"silos": silos, **ATTACKS[self.attack]},
        }  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What came of a run.

    Attributes:
        by: the round after which all attackers had been excluded; None where some never were.
        caught: how many attackers were ever excluded.
        wrong: honest silos that were.
        wrong_updates: how many updates of honest silos were left out of a round.
        accuracy: of the last model, from 0 to 1; None where there was no finite one.
    """

    by: int | None
    caught: int
    wrong: list[int]
    wrong_updates: int
    accuracy: float | None


def run(case: Case) -> Found:
    """One case."""
    import torch

    with tempfile.TemporaryDirectory() as path:
        config = configuration.parse(case.tables(path))

        def rank(comm: Communicator) -> Any:
            torch.set_num_threads(1)
            return train(config, comm=comm)

        try:
            summary = run_in_threads(SILOS, rank, timeout_s=LONGEST_S)[0]
        except SiloflError:
            return Found(None, 0, [], 0, None)
        lines = [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]
    first: dict[int, int] = {}
    for number, silo in summary["excluded"]:
        first.setdefault(silo, number)
    honest = SILOS - case.attackers
    caught = [number for silo, number in first.items() if silo >= honest]
    left_out = sum(silo < honest for line in lines for silo in line["left_out"])
    by = max(caught) if caught and len(caught) == case.attackers else None
    wrong = sorted(silo for silo in first if silo < honest)
    return Found(by, len(caught), wrong, left_out, summary["accuracy"])


def cases_of(given: argparse.Namespace) -> list[Case]:
    """All that are asked for."""
    found = []
    for split, attackers, rule in product(given.splits, given.attackers, given.rules):
        for attack, seed in product(given.attacks if attackers else ["none"], given.seeds):
            one = Case(attack, rule, attackers, split, given.rounds, seed)
            found += [one, replace(one, detects=False)] if given.twins else [one]
    return found


def markdown(results: dict[Case, Found], attackers: int, split: str) -> str:
    """One table."""
    columns = ["attack", "rule", "seed", "all excluded after round", "excluded", "honest excluded"]
    columns += ["honest updates left out", "accuracy", "without detection"]
    lines = [f"{attackers} of {SILOS} silos attack, {split}", "", f"| {' | '.join(columns)} |"]
    lines.append("|---" * len(columns) + "|")
    for case, one in results.items():
        if not case.detects or (case.attackers, case.split) != (attackers, split):
            continue
        twin = results.get(replace(case, detects=False))
        cells = [case.attack, case.rule.replace("none", "mean"), case.seed, one.by or "never", one.caught]
        cells += [len(one.wrong), one.wrong_updates, percent(one), "" if twin is None else percent(twin)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


def percent(found: Found) -> str:
    """Its accuracy."""
    return "fails" if found.accuracy is None else f"{100 * found.accuracy:.1f}"


def main() -> None:
    """Run all cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--attackers", nargs="+", type=int, default=[0, 2, 3])
    parser.add_argument("--rules", nargs="+", default=["none"])
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=list(SPLITS))
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--twins", action="store_true", help="run each without detection as well")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    cases, results = cases_of(given), dict[Case, Found]()
    with ProcessPoolExecutor(given.jobs) as pool:
        for case, found in zip(cases, pool.map(run, cases), strict=True):
            results[case] = found
            print(f"<!-- {case} {found} -->", flush=True)
    for split, attackers in product(given.splits, given.attackers):
        print(markdown(results, attackers, split))
    if given.json is not None:
        rows = [asdict(case) | asdict(found) for case, found in results.items()]
        given.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
