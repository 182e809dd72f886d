"""One run of three silos on files, each of which leaves with a model of its own, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from silofl import config as configuration
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.federation.loop import train

SILOS = 3


class Run(NamedTuple):
    folder: Path
    path: Path
    config: Config
    summary: dict[str, Any]


def table(silo: int) -> np.ndarray:
    """Years, an enzyme of another size at each silo, a mark; benign or malignant."""
    rng = np.random.default_rng(silo)
    x = rng.normal(size=(60 + 10 * silo, 3)) * [12, 1e3 * (1 + silo), 1] + [60, 5e6, 0]
    return np.column_stack([x, x[:, 0] + 10 * x[:, 2] > 60])


def write(path: Path, rows: np.ndarray) -> None:
    lines = ["age,enzyme,mark,label"]
    lines += [f"{a!r},{b!r},{c!r},{'malignant' if d else 'benign'}" for a, b, c, d in rows.tolist()]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("inference")
    for silo in range(SILOS):
        write(folder / f"{silo}.csv", table(silo))
    tables: dict[str, Any] = {
        "run": {"dir": str(folder / "run"), "display": "none", "rounds": 3},
        "task": {"name": "files", "labels": ["benign", "malignant"], "model": "mlp", "hidden": [8]},
        "data": {"path": str(folder / "{silo}.csv"), "standardize": "federated", "units": {"age": "years"}},
        "personal": {"name": "ditto"},
        "train": {"eval_batch_size": 7},
    }
    config = configuration.parse(tables)

    def rank(comm: Any) -> dict[str, Any]:
        torch.set_num_threads(1)
        return train(config, comm=comm)

    summary = run_in_threads(SILOS, rank)[0]
    return Run(folder, folder / "run", config, summary)
