"""Accuracy under attack: every rule of [robust] beside every attack of [attack], on digits, 10 silos.

Silos are threads of one process and train the linear model of the built-in task. Data are dealt out alike
(iid) and by Dirichlet(0.5); 2 and 3 silos attack, the last ones. Tables are Markdown: a row for each rule, a
column for each attack, the accuracy of the global model over all silos' held-out samples in percent, and
"fails" where a run had no finite model. Of silos that are unlike, rules stand with nearest-neighbour mixing
(`robust.mix`) as well.

    python benchmarks/robustness_study.py [--rules median krum] [--attacks alie] [--attackers 2 3]
        [--splits iid dirichlet] [--rounds 20] [--jobs 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from silofl import config as configuration
from silofl.attacks.registry import ATTACKS
from silofl.bench.measure import machine
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import SiloflError
from silofl.federation.loop import train
from silofl.robust.registry import RULES

SILOS, SEED, LONGEST_S = 10, 1, 600.0
SPLITS: dict[str, dict[str, Any]] = {
    "iid": {"partition": "iid"},
    "dirichlet": {"partition": "dirichlet", "alpha": 0.5},
}
MIXED = ("median", "trimmed_mean", "krum", "geometric_median")
KEYS: dict[str, dict[str, Any]] = {
    "gaussian": {"deviation": 200.0},
    "sign_flip": {"scale": 10.0},
    "inner_product": {"epsilon": 10.0, "omniscient": True},
    "alie": {"omniscient": True},
    "mimic": {"omniscient": True},
}
"""Of attacks, where they are not the defaults."""


@dataclass(frozen=True)
class Case:
    """One run."""

    rule: str
    attack: str
    attackers: int
    split: str
    rounds: int

    def tables(self, path: str) -> dict[str, Any]:
        """Its configuration."""
        name, _, mix = self.rule.partition(" + ")
        robust: dict[str, Any] = {"name": name}
        if name != "none":
            robust |= {"f": self.attackers, "mix": bool(mix)}
        attack: dict[str, Any] = {"name": self.attack}
        if self.attack != "none":
            attack |= {"silos": list(range(SILOS - self.attackers, SILOS)), **KEYS.get(self.attack, {})}
        return {
            "run": {"dir": path, "display": "none", "rounds": self.rounds, "seed": SEED,
                    "evaluate_every": self.rounds},
            "task": {"name": "digits", "model": "linear"},
            "data": SPLITS[self.split],
            "train": {"epochs": 2, "batch_size": 16, "lr": 0.1},
            "secure": {"protocol": "plain"},
            "checkpoint": {"every": self.rounds},
            "robust": robust,
            "attack": attack,
        }  # fmt: skip


def accuracy(case: Case) -> float | None:
    """Of the model after the last round, from 0 to 1; None where the run ended with an error."""
    import torch

    with tempfile.TemporaryDirectory() as path:
        config = configuration.parse(case.tables(path))

        def rank(comm: Communicator) -> Any:
            torch.set_num_threads(1)
            return train(config, comm=comm)

        try:
            found = run_in_threads(SILOS, rank, timeout_s=LONGEST_S)[0]["accuracy"]
        except SiloflError:
            return None
    return None if found is None else float(found)


def fits(rule: str, attackers: int) -> bool:
    """Whether 10 silos are enough for a rule."""
    if rule == "none":
        return True
    kind: Any = RULES[rule.partition(" + ")[0]]
    return kind(f=attackers).refusal(SILOS) is None


def rules_of(chosen: list[str]) -> list[str]:
    """The rules that are meant, some with mixing as well."""
    return [*chosen, *(f"{name} + mix" for name in MIXED if name in chosen)]


def markdown(results: dict[Case, float | None], attackers: int, split: str) -> str:
    """One table."""
    here = {(one.rule, one.attack): value for one, value in results.items()
            if (one.attackers, one.split) == (attackers, split)}  # fmt: skip
    rules, attacks = list(dict.fromkeys(r for r, _ in here)), list(dict.fromkeys(a for _, a in here))
    lines = [f"{attackers} of {SILOS} silos attack, {split}", "", f"| rule | {' | '.join(attacks)} |"]
    lines.append("|---|" + "---|" * len(attacks))
    for rule in rules:
        cells = ["fails" if (v := here[rule, attack]) is None else f"{100 * v:.1f}" for attack in attacks]
        lines.append(f"| {rule.replace('none', 'mean')} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Run all cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rules", nargs="+", default=["none", *(one for one in RULES if one != "none")])
    parser.add_argument("--attacks", nargs="+", default=["none", *(one for one in ATTACKS if one != "none")])
    parser.add_argument("--attackers", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=list(SPLITS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    cases = [
        Case(rule, attack, attackers, split, given.rounds)
        for split, attackers in product(given.splits, given.attackers)
        for rule, attack in product(rules_of(given.rules), given.attacks)
        if fits(rule, attackers)
    ]
    with ProcessPoolExecutor(given.jobs) as pool:
        results = dict(zip(cases, pool.map(accuracy, cases), strict=True))
    for split, attackers in product(given.splits, given.attackers):
        print(markdown(results, attackers, split))
    if given.json is not None:
        rows = [vars(case) | {"accuracy": value} for case, value in results.items()]
        given.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
