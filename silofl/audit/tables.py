"""The rows of each silo's data as tables that can be written into files, with the columns that they have.

Nobody's own file is written: what is read of it goes, with more rows, into files of a temporary folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from silofl.config import Config, silo_path
from silofl.errors import ConfigError
from silofl.tasks import registry as tasks
from silofl.tasks.early import read_early
from silofl.tasks.readers.labels import class_names

LABEL = "label"


@dataclass(frozen=True)
class Rows:
    """One silo's records."""

    features: NDArray[np.float64]
    """(n, d)."""
    labels: NDArray[np.int64]
    """(n,), class numbers."""
    columns: tuple[str, ...]
    """Names of the features."""

    def with_columns(self, names: Sequence[str]) -> Rows:
        """With more columns, of zeros."""
        more = np.zeros((len(self.features), len(names)))
        return Rows(np.hstack((self.features, more)), self.labels, (*self.columns, *names))

    def joined(self, features: NDArray[np.float64], labels: NDArray[np.int64]) -> Rows:
        """With more records behind its own."""
        return Rows(np.vstack((self.features, features)), np.append(self.labels, labels), self.columns)


def rows_of(config: Config, silo: int, silos: int) -> Rows:
    """A silo's records as its file, or the built-in task, has them, before any scaling.

    Raises ConfigError for a task of a user's own, whose `data` reads what no other can write.
    """
    if config.task.factory:
        raise ConfigError(
            "silofl audit writes canaries into files, and task.factory reads data itself: audit the model "
            'with task.name = "files" or a built-in task'
        )
    if config.task.model == "cnn":
        raise ConfigError(
            'silofl audit gives every canary a column of its own, and task.model = "cnn" has pixels: audit '
            'with task.model = "linear" or "mlp", whose way from file to noise is the same'
        )
    samples = read_early(config, silo)
    if samples is not None:
        flat = samples.features.reshape(len(samples.labels), -1).astype(np.float64)
        names = [name for name, _ in samples.schema]
        if len(names) != flat.shape[1] or not all(names):
            names = _numbered(flat.shape[1])
        return Rows(flat, samples.labels, tuple(names))
    parts = [part for part in tasks.build(config).data(silo, silos) if part is not None]
    tensors = [part.tensors for part in parts if isinstance(part, TensorDataset)]
    x, y = (torch.cat(list(columns)) for columns in zip(*tensors, strict=True))
    flat = x.reshape(len(y), -1).numpy().astype(np.float64)
    return Rows(flat, y.numpy(), tuple(_numbered(flat.shape[1])))


def _numbered(count: int) -> list[str]:
    return [f"column_{number:05d}" for number in range(count)]


def classes_of(config: Config) -> list[Any]:
    """The values of labels, in class order, as a file has them."""
    if config.task.name == "files":
        return list(class_names(config.task)) if config.task.labels else list(range(config.task.classes or 2))
    model: Any = tasks.build(config).model()
    return list(range(model[-1].out_features))


def audited(config: Config, folder: Path, suffix: str) -> Config:
    """The configuration with each silo's rows in `folder`, and nothing else of a user's read or written.

    All that decides what is released stays as it is.
    """
    labels = config.task.labels if config.task.name == "files" else None
    classes = None if labels else len(classes_of(config))
    task = {"name": "files", "labels": labels, "classes": classes}
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"dir": str(folder / "run"), "display": "none"}),
            "task": config.task.model_copy(update=task),
            "data": config.data.model_copy(
                update={
                    **{"path": str(folder / f"silo-{{silo}}{suffix}"), "decimal": ".", "units": {}},
                    **{"target": LABEL, "id": "", "drop": [], "columns": []},
                }
            ),
            "secure": config.secure.model_copy(update={"identity": "", "passphrase_file": "", "roster": ""}),
            "privacy": config.privacy.model_copy(
                update={"metrics": "none", "budget_dir": "", "budget_epsilon": None, "budget_delta": None}
            ),
            "checkpoint": config.checkpoint.model_copy(
                update={
                    "every": 1,
                    "keep": config.run.rounds + 1,
                    "buddy": False,
                    "key_file": str(folder / "silo-{silo}.key"),
                }
            ),
            "failure": config.failure.model_copy(update={"policy": "abort", "inject": []}),
        }
    )


def write(config: Config, silo: int, rows: Rows) -> None:
    """Write a silo's rows where an `audited` configuration reads them: as CSV or NPZ."""
    path = silo_path(config.data.path, silo)
    names = np.array(classes_of(config))
    if path.suffix == ".npz":
        features = rows.features.astype(np.float32)
        np.savez(path, x=features, label=names[rows.labels], columns=np.array(rows.columns))
        return
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join([*(_quoted(name) for name in rows.columns), LABEL]) + "\n")
        for values, label in zip(rows.features.tolist(), rows.labels.tolist(), strict=True):
            file.write(",".join([*map(repr, values), _quoted(str(names[label]))]) + "\n")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
