"""All strategies and personal methods, one run after the other, on the four ranks of one job.

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
from tests.strategies.naive import ALL, ROUNDS, silos
from tests.strategies.test_federated import LR, STEPS, Softmax

SETS: tuple[tuple[str, list[tuple[dict[str, Any], Any]]], ...] = (
    ("strategy", strategies.CASES),
    ("personal", personal.CASES),
)


def run(comm: Communicator, section: str, table: dict[str, Any], path: Path) -> None:
    config = configuration.parse(
        {
            "run": {"name": "f", "dir": str(path), "display": "none", "rounds": ROUNDS},
            "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": "float64"},
            section: table,
            "secure": {"protocol": "plain"},
            "checkpoint": {"every": 0},
        }
    )
    train(config, personal.InRows() if section == "personal" else Softmax(), comm=comm)


def main(comm: Communicator, shutdown: Shutdown) -> None:
    folder = Path(sys.argv[1])
    for section, cases in SETS:
        for number, (table, reference) in enumerate(cases):
            path = folder / f"{section}-{number}"
            run(comm, section, table, path)
            comm.barrier()
            expected = reference(silos(), ALL)
            if section == "strategy":
                model = load_file(path / "model.safetensors")["weight"].ravel()
                error = np.abs(model - expected).max()
            else:
                own = load_file(path / f"silo-000{comm.rank}" / "personal.safetensors")
                shared = personal.flat(load_file(path / "model.safetensors"))
                error = max(
                    np.abs(shared - expected[0]).max(),
                    np.abs(personal.flat(own) - expected[1][comm.rank]).max(),
                )
            told = {"rank": comm.rank, "member": table, "error": float(error)}
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
