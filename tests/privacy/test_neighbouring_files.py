"""What one record of a file can do to the clipped sum of a round: its own gradient, and nothing else."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from silofl.config import parse
from silofl.privacy.grid import FLOAT_MARGIN
from silofl.tasks import build, packaged
from silofl.tasks.partition import PARTITIONERS
from silofl.training.batches import Batches
from silofl.training.clipped import ClippedGradients
from silofl.training.flat import FlatModel
from tests.campaigns import mostly_long

Table = NDArray[np.float64]
CPU, CLIP_NORM, SILOS, ROWS = torch.device("cpu"), 0.5, 2, 160


class Kind(NamedTuple):
    """A task whose samples lie in a file, the last column of which is the label."""

    name: str
    classes: int
    write: Callable[[Path, Table], None]
    data: dict[str, Any]
    task: dict[str, Any]


def write_digits(folder: Path, rows: Table) -> None:
    with gzip.open(folder / "datasets" / "data" / "digits.csv.gz", "wt") as file:
        np.savetxt(file, rows, delimiter=",")


def write_patients(folder: Path, rows: Table) -> None:
    np.savetxt(folder / "datasets" / "data" / "breast_cancer.csv", rows, delimiter=",", header="names")


def write_csv(folder: Path, rows: Table) -> None:
    """One file for both silos: what is said of the sum over silos holds of each."""
    names = ",".join([*(f"c{k}" for k in range(rows.shape[1] - 1)), "label"])
    np.savetxt(folder / "mine.csv", rows, delimiter=",", header=names, comments="")


KINDS = {
    "digits": Kind("digits", 10, write_digits, {}, {}),
    "breast_cancer": Kind("breast_cancer", 2, write_patients, {}, {}),
    "files": Kind("files", 2, write_csv, {}, {"classes": 2}),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the files lie that tasks read."""
    (tmp_path / "datasets" / "data").mkdir(parents=True)
    monkeypatch.setattr(
        packaged, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(before)


def table(kind: Kind) -> Table:
    """The first rows of the published data, or of two clouds."""
    if kind.name == "files":
        rng = np.random.default_rng(0)
        x = rng.normal(size=(ROWS, 6)) * [1, 10, 1, 1, 1, 1] + [0, 50, 0, 0, 0, 0]
        return np.column_stack([x, x[:, 0] > 0])
    file = {"digits": "digits.csv.gz", "breast_cancer": "breast_cancer.csv"}[kind.name]
    with pytest.MonkeyPatch.context() as patch:
        from importlib.util import find_spec

        patch.setattr(packaged, "find_spec", find_spec)
        x, y = packaged.read(file, header_lines=int(kind.name == "breast_cancer"))
    return np.column_stack([x, y])[:ROWS]


class Round:
    """What one kind of task trains on, and the clipped sum of it at one model."""

    def __init__(self, kind: Kind, folder: Path, **data: Any) -> None:
        self.kind, self.folder = kind, folder
        paths = {"path": str(folder / "mine.csv")} if kind.name == "files" else {}
        tables = {
            "task": {"name": kind.name, "model": "linear", **kind.task},
            "data": {**paths, **kind.data, **data},
            "privacy": {"unit": "example", "noise_multiplier": 1.0},
            "strategy": {"name": "fedsgd"},
        }
        self.task: Any = build(parse(tables))

    def of(self, rows: Table) -> tuple[list[NDArray[np.float64]], Counter[bytes]]:
        """Each silo's clipped sum, and the samples that it is of."""
        self.kind.write(self.folder, rows)
        parts: list[Any] = [self.task.data(silo, SILOS) for silo in range(SILOS)]
        torch.manual_seed(0)
        model = FlatModel(self.task.model(), torch.float32, CPU)
        parts = [part.train.tensors for part in parts]
        both = TensorDataset(*map(torch.cat, zip(*parts, strict=True)))
        batches = Batches(both, torch.float32, CPU)
        clipped = ClippedGradients(self.task, model, batches, clip_norm=CLIP_NORM, clipping="ghost", silo=0)
        trained: Counter[bytes] = Counter()
        sums, start = [], 0
        for silo, (x, y) in enumerate(parts):
            total, _ = clipped.sum(np.arange(start, start + len(y)))
            sums.append(total.double().numpy().copy())
            start += len(y)
            pairs = zip(x.numpy(), y.numpy(), strict=True)
            trained.update(bytes([silo]) + one.tobytes() + label.tobytes() for one, label in pairs)
        return sums, trained


def strange_rows(kind: Kind, rows: Table) -> Iterator[Table]:
    """Rows that an attacker would choose, of each class."""
    x = rows[:, :-1]
    spread = np.ptp(x, axis=0) + 1
    for label in range(min(kind.classes, 2)):
        for features in (
            x[3],  # as another one is
            x[5] + 0.25 * spread,
            1e6 * spread,
            -1e6 * spread,
            np.where(np.arange(len(spread)) == 1, 1e6 * spread, x[7]),
            np.zeros_like(spread),
        ):
            yield np.append(features, label)


def moved(one: list[NDArray[np.float64]], other: list[NDArray[np.float64]]) -> list[float]:
    """By how many clipping norms each silo's sum moves."""
    return [float(np.linalg.norm(a - b)) / CLIP_NORM for a, b in zip(one, other, strict=True)]


CASES = [(name, {"partition": how}) for name in ("digits", "breast_cancer") for how in PARTITIONERS]


CONSTANTS = {"center": {"c0": 1e3, "c1": 50.0}, "scale": {"c1": 10.0, "c2": 1e-5}}


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("name", "data"), mostly_long([*CASES, ("files", {}), ("files", CONSTANTS)], 0, 8, 11)
)
def test_a_record_moves_the_sum_by_its_own_gradient(folder, name, data):
    kind, most, rng = KINDS[name], 1 + FLOAT_MARGIN, np.random.default_rng(1)
    rows, of = table(kind), Round(kind, folder, **data).of
    sums, trained = of(rows)
    copies = SILOS if name == "files" else 1  # every silo reads the one file
    largest = 0.0
    for new in islice(strange_rows(kind, rows), 0, None, 1 if data.get("partition", "iid") == "iid" else 5):
        place = int(rng.integers(ROWS))
        for changed, removed, added in (
            (np.insert(rows, place, new, axis=0), 0, copies),
            (np.delete(rows, place, axis=0), copies, 0),
            (np.concatenate([rows[:place], new[None], rows[place + 1 :]]), copies, copies),
        ):
            others, there = of(changed)
            assert (trained - there).total() <= removed
            assert (there - trained).total() <= added
            by = moved(sums, others)
            assert max(by) <= most * (bool(removed) + bool(added))
            assert sum(by) <= most * (removed + added)
            largest = max(largest, *by)
    assert largest > 0.3  # the search has found records that matter


@pytest.mark.parametrize("name", mostly_long([*KINDS], 1))
def test_a_label_that_is_another_moves_no_other_record(folder, name):
    kind = KINDS[name]
    rows, of = table(kind), Round(kind, folder).of
    sums, trained = of(rows)
    for place in range(0, ROWS, 30):
        changed = rows.copy()
        changed[place, -1] = (changed[place, -1] + 1) % kind.classes
        others, there = of(changed)
        copies = SILOS if name == "files" else 1
        assert (trained - there).total() <= copies
        assert (there - trained).total() <= copies
        assert max(moved(sums, others)) <= 2 * (1 + FLOAT_MARGIN)
