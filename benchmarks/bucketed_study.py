"""Robust rules over means of buckets: secret ones beside the same rule over open ones, under attacks.

    python benchmarks/bucketed_study.py            # 15 silos of digits, 2 attackers
    python benchmarks/bucketed_study.py --rules median --attacks sign_flip --seeds 1

Open buckets are those of `secure.protocol = "plain"`, drawn by the run's seed; secret ones are drawn by all
silos and summed by `secagg`. Both are kept for the run. Accuracies are means over seeds, in per cent, of the
last round.
"""

from __future__ import annotations

import argparse
import tempfile
from statistics import fmean
from typing import Any

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.loop import train

SILOS, ATTACKERS, SIZE, LONGEST_S = 15, 2, 3, 600.0
KEYS: dict[str, dict[str, Any]] = {
    "sign_flip": {"scale": 10.0},
    "gaussian": {"deviation": 200.0},
    "inner_product": {"epsilon": 10.0},
}
RULES = ("mean", "median", "trimmed_mean", "geometric_median", "centered_clipping")
ATTACKS = ("none", "sign_flip", "gaussian", "inner_product", "alie")


def tables(path: str, rule: str, attack: str, seed: int, *, secret: bool, rounds: int) -> dict[str, Any]:
    """One run's configuration."""
    robust = (
        {"name": "none"}
        if rule == "mean"
        else {"name": rule, "f": ATTACKERS, "bucket": SIZE, "redraw": rounds}
    )
    forged: dict[str, Any] = {"name": attack}
    if attack != "none":
        forged |= {"silos": list(range(SILOS - ATTACKERS, SILOS)), **KEYS.get(attack, {})}
    return {
        "run": {"dir": path, "display": "none", "rounds": rounds, "seed": seed, "evaluate_every": rounds},
        "task": {"name": "digits", "model": "linear"},
        "data": {"partition": "iid"},
        "train": {"epochs": 2, "batch_size": 16, "lr": 0.1},
        "secure": {"protocol": "secagg" if secret else "plain"},
        "checkpoint": {"every": rounds},
        "robust": robust,
        "attack": forged,
    }


def accuracy(rule: str, attack: str, seed: int, *, secret: bool, rounds: int = 10) -> float:
    """Of the model after the last round, from 0 to 1."""
    import torch

    with tempfile.TemporaryDirectory() as path:
        config = configuration.parse(tables(path, rule, attack, seed, secret=secret, rounds=rounds))

        def rank(comm: Communicator) -> Any:
            torch.set_num_threads(1)
            return train(config, comm=comm)

        return float(run_in_threads(SILOS, rank, timeout_s=LONGEST_S)[0]["accuracy"])


def main() -> None:
    """Run all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    print(f"| open / secret | {' | '.join(chosen.attacks)} |\n|---|{'---|' * len(chosen.attacks)}")
    for rule in chosen.rules:
        cells = []
        for attack in chosen.attacks:
            found = [
                fmean(
                    100 * accuracy(rule, attack, seed, secret=secret) for seed in range(1, 1 + chosen.seeds)
                )
                for secret in (False, True)
            ]
            cells.append(" / ".join(f"{one:.1f}" for one in found))
        print(f"| {rule} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
