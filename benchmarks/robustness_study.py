"""Accuracy under attack: every rule of [robust] beside every attack of [attack], on digits, 10 silos.

Silos are threads of one process, and run the rounds of a job: each trains the linear model of the built-in
task, in six steps over all of its samples with a momentum that it keeps from round to round, and all apply
the rule and step. Data are dealt out alike (iid) and by Dirichlet(0.5); 2 and 3
silos attack, the last ones. Tables are Markdown: a row for each rule, a column for each attack, the accuracy
of the global model over all silos' held-out samples in percent, the mean over seeds, and "fails" where a run
ended with an error. The last column is the success of the backdoor: which part of the held-out samples of
other classes the model takes for its target once they have the patch. Of silos that are unlike, some rules
stand with nearest-neighbour mixing (`robust.mix`) as well. Below each table: under which attacks the mean
collapses, and which rule loses least under the attack that is worst for it, to the mean without an attack.

A FILE of an earlier run that did not come to its end is gone on with.

    python benchmarks/robustness_study.py [--json FILE] [--seeds 2] [--rounds 20] [--jobs 2]
        [--rules median krum] [--attacks alie] [--attackers 2 3] [--splits iid dirichlet]
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from silofl import config as configuration
from silofl.attacks.backdoor import Backdoor
from silofl.attacks.registry import ATTACKS
from silofl.bench.measure import machine
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import SiloflError
from silofl.federation.loop import train
from silofl.robust.registry import RULES
from silofl.tasks import build, packaged

SILOS, LONGEST_S = 10, 600.0
COLLAPSED = 50.0
"""Percent of accuracy below which a model has collapsed."""
SPLITS: dict[str, dict[str, Any]] = {
    "iid": {"partition": "iid"},
    "dirichlet": {"partition": "dirichlet", "alpha": 0.5},
}
MIXED = ("median", "trimmed_mean", "krum", "geometric_median", "centered_clipping")
KEYS: dict[str, dict[str, Any]] = {
    "gaussian": {"deviation": 200.0},
    "sign_flip": {"scale": 10.0},
    "inner_product": {"epsilon": 10.0, "omniscient": True},
    "alie": {"z": 1.5, "omniscient": True},
    "mimic": {"omniscient": True},
}
"""Of attacks, where they are not the defaults."""
BACKDOOR = "backdoor succeeds"
Found = dict[str, dict[str, Any]]


def keep_data() -> None:
    """Have this process read a data set once: ten silos of hundreds of runs read the same file."""
    packaged.read = functools.cache(packaged.read)


@dataclass(frozen=True)
class Case:
    """One run."""

    rule: str
    attack: str
    attackers: int
    split: str
    seed: int

    @property
    def key(self) -> str:
        """In the results."""
        return f"{self.split} | {self.attackers} | {self.rule} | {self.attack} | {self.seed}"

    def config(self, path: str, rounds: int) -> Config:
        """Its configuration."""
        name, _, mix = self.rule.partition(" + ")
        robust: dict[str, Any] = {"name": name}
        if name != "none":
            robust |= {"f": self.attackers, "mix": bool(mix)}
        attack: dict[str, Any] = {"name": self.attack}
        if self.attack != "none":
            attack |= {"silos": list(range(SILOS - self.attackers, SILOS)), **KEYS.get(self.attack, {})}
        run = {"dir": path, "display": "none", "rounds": rounds, "seed": self.seed, "evaluate_every": rounds}
        tables: dict[str, Any] = {
            "run": run,
            "task": {"name": "digits", "model": "linear"},
            "data": SPLITS[self.split],
            "train": {"full_batch": True, "steps": 6, "lr": 0.3, "momentum": 0.9},
            "secure": {"protocol": "plain"},
            "checkpoint": {"every": 0, "key_file": f"{path}/{{silo}}.key"},
            "robust": robust,
            "attack": attack,
        }
        return configuration.parse(tables)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """`accuracy` of the model after the last round and the `backdoor`'s success, from 0 to 1; or `error`."""
    with tempfile.TemporaryDirectory() as path:
        config = case.config(path, rounds)

        def rank(comm: Communicator) -> Any:
            torch.set_num_threads(1)
            return train(config, comm=comm)

        try:
            accuracy = run_in_threads(SILOS, rank, timeout_s=LONGEST_S)[0]["accuracy"]
        except SiloflError as error:
            return {"error": str(error).replace(path, "RUN")}
        return {"accuracy": accuracy, "backdoor": backdoor_success(config, Path(path) / "model.safetensors")}


def backdoor_success(config: Config, model_file: Path) -> float:
    """Which part of all silos' held-out samples of other classes a model takes for the target, patched."""
    attack = config.attack.attack
    backdoor = attack if isinstance(attack, Backdoor) else Backdoor()
    task: Any = build(config)
    model = task.model()
    model.load_state_dict(load_file(model_file))
    tests = [task.data(silo, SILOS).test.tensors for silo in range(SILOS)]
    samples, labels = (np.concatenate([one[k].numpy() for one in tests]) for k in (0, 1))
    with torch.no_grad():
        said = model(torch.from_numpy(backdoor.patched(samples)).float()).argmax(dim=1).numpy()
    return float((said == backdoor.target)[labels != backdoor.target].mean())


def needs(rule: str, attackers: int) -> int | None:
    """How many silos a rule needs where 10 are too few for it; else None."""
    if rule == "none":
        return None
    kind: Any = RULES[rule.partition(" + ")[0]]
    made = kind(f=attackers)
    return None if made.refusal(SILOS) is None else made.fewest(attackers)


def rules_of(chosen: list[str], split: str) -> list[str]:
    """The rules that are meant, of silos that are unlike some with mixing as well."""
    return [*chosen, *(f"{name} + mix" for name in MIXED if name in chosen and split != "iid")]


def mean_of(found: Found, case: Case, seeds: int, what: str = "accuracy") -> float | None:
    """Percent, over seeds; None where a run had an error."""
    values = [found[Case(*(case.rule, case.attack, case.attackers, case.split), seed).key].get(what)
              for seed in range(seeds)]  # fmt: skip
    return None if None in values else 100 * statistics.fmean(values)  # type: ignore[type-var]


def table(found: Found, attackers: int, split: str, seeds: int) -> dict[str, dict[str, float | None]]:
    """Of each rule its percent under each attack, and of the backdoor's success; all seeds are there."""
    shown: dict[str, dict[str, float | None]] = {}
    for rule, attack in product(rules_of([*RULES], split), ATTACKS):
        if Case(rule, attack, attackers, split, 0).key in found:
            case = Case(rule, attack, attackers, split, 0)
            shown.setdefault(rule, {})[attack] = mean_of(found, case, seeds)
            if attack == "backdoor":
                shown[rule][BACKDOOR] = mean_of(found, case, seeds, "backdoor")
    first = ("none", BACKDOOR)
    return {
        rule: dict(sorted(row.items(), key=lambda one: (one[0] != first[0]) + (one[0] == first[1])))
        for rule, row in sorted(shown.items(), key=lambda one: one[0] != "none")
    }


def collapsed(shown: dict[str, dict[str, float | None]]) -> list[str]:
    """Attacks under which the mean collapses."""
    accuracies = {name: value for name, value in shown["none"].items() if name != BACKDOOR}
    return [name for name, value in accuracies.items() if value is None or value < COLLAPSED]


def most_lost(shown: dict[str, dict[str, float | None]]) -> dict[str, float]:
    """Of each rule how many points it loses at most to the mean without an attack; the least first."""
    base = shown["none"]["none"]
    assert base is not None
    lost = {
        rule: max(100.0 if value is None else base - value
                  for name, value in row.items() if name != BACKDOOR)
        for rule, row in shown.items()
    }  # fmt: skip
    return dict(sorted(lost.items(), key=lambda one: one[1]))


def least_lost(shown: dict[str, dict[str, float | None]]) -> dict[str, float]:
    """Of each attack how many points the rule loses that is best under it, to the mean without an attack."""
    base = shown["none"]["none"]
    assert base is not None
    return {
        name: base - max(row[name] or 0.0 for row in shown.values())
        for name in shown["none"]
        if name not in ("none", BACKDOOR)
    }


def markdown(found: Found, attackers: int, split: str, seeds: int) -> str:
    """One table, and what it says."""
    shown = table(found, attackers, split, seeds)
    attacks = list(shown["none"])
    lines = [f"{attackers} of {SILOS} silos attack, {split}", "", f"| rule | {' | '.join(attacks)} |"]
    lines.append("|---|" + "---|" * len(attacks))
    for rule, row in shown.items():
        cells = ["fails" if (value := row[name]) is None else f"{value:.1f}" for name in attacks]
        lines.append(f"| {rule if rule != 'none' else 'mean'} | {' | '.join(cells)} |")
    lines.append("")
    for rule in RULES:
        if (least := needs(rule, attackers)) is not None:
            lines.append(f"{rule} needs {least} silos where {attackers} attack.")
    lost = most_lost(shown)
    best = next(iter(lost))
    lines.append(f"The mean collapses under {', '.join(collapsed(shown)) or 'no attack'}.")
    lines.append(
        f"{best} loses {lost[best]:.1f} points at most; the best rule under each attack, "
        + ", ".join(f"{value:.1f} under {name}" for name, value in least_lost(shown).items())
    )
    return "\n".join([*lines, ""])


SUMMARY = "| data | attackers | the mean collapses under | loses least | at most | best of each attack |"


def summary(found: Found, attackers: int, split: str, seeds: int) -> str:
    """A table in one row: how much one rule loses at most, and the best rule under each attack."""
    shown = table(found, attackers, split, seeds)
    lost = most_lost(shown)
    best, worst = next(iter(lost)), max(least_lost(shown).values())
    under = ", ".join(f"`{name}`" for name in collapsed(shown))
    return f"| {split} | {attackers} | {under} | `{best}` | {lost[best]:.1f} | {worst:.1f} |"


def main() -> None:
    """Run what FILE lacks, save it, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rules", nargs="+", default=["none", *(one for one in RULES if one != "none")])
    parser.add_argument("--attacks", nargs="+", default=["none", *(one for one in ATTACKS if one != "none")])
    parser.add_argument("--attackers", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=list(SPLITS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    begun = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    if begun and begun["rounds"] != given.rounds:
        parser.error(f"{given.json} is of {begun['rounds']} rounds: name another file, or --rounds")
    found: Found = begun.get("found", {})

    def save() -> None:
        if given.json:
            told = {"machine": machine(), "rounds": given.rounds, "found": dict(sorted(found.items()))}
            given.json.write_text(json.dumps(told, indent=1) + "\n")

    cases = [
        Case(rule, attack, attackers, split, seed)
        for seed, split, attackers in product(range(given.seeds), given.splits, given.attackers)
        for rule, attack in product(rules_of(given.rules, split), given.attacks)
        if needs(rule, attackers) is None
    ]
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(given.jobs, mp_context=context, initializer=keep_data) as pool:
        asked = {pool.submit(measure, one, given.rounds): one for one in cases if one.key not in found}
        for done in as_completed(asked):
            found[asked[done].key] = done.result()
            save()
    for split, attackers in product(given.splits, given.attackers):
        print(markdown(found, attackers, split, given.seeds))
    print(SUMMARY, "|---|---|---|---|---|---|", sep="\n")
    for split, attackers in product(given.splits, given.attackers):
        print(summary(found, attackers, split, given.seeds))


if __name__ == "__main__":
    main()
