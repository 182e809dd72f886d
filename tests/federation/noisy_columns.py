"""Tables whose columns are scaled by noisy statistics, and federations that do so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import SiloflError
from silofl.federation import standardization
from silofl.federation.loop import train
from silofl.federation.privacy.release_log import Entry, entries_of, log_path
from silofl.privacy.accountant import epsilon
from silofl.privacy.column_statistics import StatisticsPlan
from silofl.tasks import build

SILOS, RECORDS = 4, 400
LOW, HIGH = np.array([0, 0, -50.0]), np.array([110, 30, 50.0])


def table(silo: int) -> np.ndarray:
    rng = np.random.default_rng(silo)
    x = np.column_stack(
        [
            rng.normal(50 + silo, 12, RECORDS),
            rng.gamma(4, 1.5, RECORDS),
            rng.normal(0, 15, RECORDS),
        ]
    )
    return np.column_stack([x, x[:, 0] > 50, np.arange(RECORDS) // 2])


def written(folder: Path) -> None:
    for silo in range(SILOS):
        header = "age,glucose,tilt,label,person"
        np.savetxt(folder / f"{silo}.csv", table(silo), delimiter=",", header=header, comments="", fmt="%.9g")


def settings(path: Path, **sections: dict[str, Any]) -> Config:
    """Two rounds of one private step, whose columns are scaled by noisy statistics."""
    bounds = {"age": [0, 110], "glucose": [0, 30], "*": [-50, 50]}
    tables: dict[str, dict[str, Any]] = {
        "run": {"name": "noisy", "dir": str(path / "run"), "display": "none", "rounds": 2},
        "task": {"name": "files", "classes": 2, "model": "linear"},
        "data": {"path": str(path / "{silo}.csv"), "standardize": "federated", "bounds": bounds},
        "strategy": {"name": "fedsgd", "lr": 1.0},
        "privacy": {"unit": "example", "noise_multiplier": 2.0, "sample_rate": 0.2},
        "secure": {"bits": 32},
        "checkpoint": {"key_file": str(path / "silo-{silo}.key")},
        "failure": {"policy": "shrink"},
    }
    for name, keys in sections.items():
        tables[name] = tables.get(name, {}) | keys
    tables["data"].setdefault("owner_column", "person")
    return configuration.parse(tables)


def federate(config: Config, *, resume: bool = False) -> list[Any]:
    """What every silo has in the end: its summary, the error that it raised, or None where it died."""

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        try:
            return train(config, comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=100)


def entries(path: Path, silo: int = 0) -> list[Entry]:
    """Of a silo's release log, what was shown of statistics."""
    return [one for one in entries_of(log_path(path / "run", silo)) if one.round == 0]


def kept(path: Path, silo: int = 0) -> Any:
    return json.loads((path / "run" / f"silo-{silo:04d}" / standardization.FILE).read_text())


def clipped_rows(config: Config) -> np.ndarray:
    """All silos' training records, columns by name, within their bounds."""
    task = build(config)
    rows = np.concatenate([task.training_numbers(silo) for silo in range(SILOS)])
    return np.clip(rows, LOW, HIGH)


def of_statistics(config: Config, silos: int = SILOS, times: int = 1) -> float:
    """Epsilon of statistics alone."""
    spent = StatisticsPlan(config.privacy, silos, 3).of_sum(silos)
    return epsilon({release: times * count for release, count in spent.items()}, 1e-5, "pld")
