"""All strategies, personal methods and clusters, one run after the other, on the four ranks of one job.

Each rank tells how far what it holds is from the plain reference.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from silofl import config as configuration
from silofl.comm import run_on_ranks
from silofl.comm.protocol import Communicator
from silofl.comm.shutdown import Shutdown
from silofl.federation.loop import train
from tests.personal import test_federated as personal
from tests.strategies import test_federated as strategies
from tests.strategies import test_ifca as clustered
from tests.strategies.naive import ALL, ROUNDS, silos
from tests.strategies.test_federated import LR, STEPS, Softmax

SETS: tuple[tuple[str, list[tuple[dict[str, Any], Any]]], ...] = (
    ("strategy", strategies.CASES),
    ("personal", personal.CASES),
    ("clusters", clustered.CASES),
)
TASKS: dict[str, Any] = {"personal": personal.InRows, "clusters": clustered.TwoTasks}


def run(comm: Communicator, section: str, table: dict[str, Any], path: Path) -> None:
    config = configuration.parse(
        {
            "run": {"name": "f", "dir": str(path), "display": "none", "rounds": ROUNDS},
            "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": "float64"},
            "personal" if section == "personal" else "strategy": table,
            "secure": {"protocol": "plain"},
            "checkpoint": {"every": 0},
        }
    )
    train(config, TASKS.get(section, Softmax)(), comm=comm)


def difference(section: str, path: Path, table: dict[str, Any], reference: Any, rank: int) -> float:
    """Of the shared models, and of this rank's own where it has one."""
    if section == "clusters":
        models, own = reference()
        found = clustered.found_in(path, table["clusters"], [rank])
        pairs = [*zip(found[0], models, strict=True), (found[1][0], own[rank])]
    elif section == "strategy":
        pairs = [(load_file(path / "model.safetensors")["weight"].ravel(), reference(silos(), ALL))]
    else:
        shared, own = reference(silos(), ALL)
        mine = load_file(path / f"silo-000{rank}" / "personal.safetensors")
        pairs = [
            (personal.flat(load_file(path / "model.safetensors")), shared),
            (personal.flat(mine), own[rank]),
        ]
    return max(float(np.abs(one - other).max()) for one, other in pairs)


def main(comm: Communicator, shutdown: Shutdown) -> None:
    folder = Path(sys.argv[1])
    for section, cases in SETS:
        for number, (table, reference) in enumerate(cases):
            path = folder / f"{section}-{number}"
            run(comm, section, table, path)
            comm.barrier()
            error = difference(section, path, table, reference, comm.rank)
            told = {"rank": comm.rank, "member": table, "error": error}
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
