"""Tables for every head, in three files, and the configuration that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from silofl import config as configuration
from silofl.config import Config

SILOS = 3
TARGETS: dict[str, Any] = {
    "classification": "ill",
    "regression": "price",
    "multilabel": ["flu", "cold", "asthma"],
    "survival": ["days", "died"],
}
MORE: dict[str, dict[str, Any]] = {
    "classification": {"labels": ["no", "yes"]},
    "regression": {},
    "multilabel": {},
    "survival": {"intervals": [10.0, 20.0, 40.0, 80.0]},
}


def columns(head: str, silo: int, rows: int = 120) -> dict[str, np.ndarray]:
    """Three features of other places at each silo, and what a head learns of them."""
    rng = np.random.default_rng([silo, len(head)])
    x = rng.normal(size=(rows, 3)) * [10, 1, 0.5] + [50 + 3 * silo, 0.2 * silo, 0]
    found = dict(zip(("age", "dose", "mark"), x.T, strict=True))
    score = (x[:, 0] - 53) / 10 + x[:, 1] - 2 * x[:, 2]
    if head == "classification":
        found["ill"] = np.where(score + rng.logistic(size=rows) * 0.3 > 1, "yes", "no")
    elif head == "regression":
        found["price"] = 1e5 + 2e4 * score + rng.normal(size=rows) * 5e3
    elif head == "multilabel":
        for k, name in enumerate(TARGETS[head]):
            found[name] = (x[:, k] > (53, 0.2, 0)[k] + rng.normal(size=rows) * 0.1).astype(int)
    else:
        time, censored = rng.exponential(30 * np.exp(-score)), rng.exponential(60, rows)
        found["days"] = np.minimum(time, censored).round(3)
        found["died"] = (time <= censored).astype(int)
    return found


def write(path: Path, table: dict[str, Any]) -> None:
    lines = [",".join(table)]
    lines += [",".join(map(str, row)) for row in zip(*(list(one) for one in table.values()), strict=True)]
    path.write_text("\n".join(lines) + "\n")


def written(folder: Path, head: str, silos: int = SILOS) -> None:
    for silo in range(silos):
        write(folder / f"{silo}.csv", columns(head, silo))


def settings(folder: Path, head: str, rounds: int = 2, **sections: dict[str, Any]) -> Config:
    tables: dict[str, dict[str, Any]] = {
        "run": {"dir": str(folder / "run"), "display": "none", "rounds": rounds},
        "task": {"name": "files", "head": head, "model": "linear", **MORE[head]},
        "data": {"path": str(folder / "{silo}.csv"), "target": TARGETS[head], "standardize": "federated"},
    }
    for name, section in sections.items():
        tables[name] = {**tables.get(name, {}), **section}
    return configuration.parse(tables)
