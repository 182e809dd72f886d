"""`silofl init`: a commented configuration to start from, with data or a task that it runs on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from silofl.config.reference import schema
from silofl.errors import ConfigError, StorageError
from silofl.shipped import FIRST_EXAMPLE, shipped_files
from silofl.tasks.readers.source import optional

CONFIG, SCHEMA = "silofl.toml", "silofl-schema.json"
_NAMES = ("north", "harbour", "valley")
_CLASSES = ("benign", "malignant")

_HEAD = """#:schema ./silofl-schema.json
# {what}
#   silofl check silofl.toml       what would run, and whether the data fits
#   silofl launch silofl.toml      train here, each silo a process of its own
#   silofl config train            every key of a section; silofl config train.lr of one
"""
_INSTITUTIONS = """
[[institution]]
name = "north"
data.path = "{north}"    # {path}
# host = "gpu1.north.example"       # where silofl launch starts its rank; all have a host, or none
# device = "cuda:0"                 # its GPU
# identity = "keys/north.pem"       # from silofl keygen; with secure.roster

[[institution]]
name = "harbour"
data.path = "{harbour}"

[[institution]]
name = "valley"
data.path = "{valley}"
"""
_TRAINING = """
[train]                             # a silo's work in a round
epochs = 1
batch_size = 16
optimizer = "SGD"                   # any class of torch.optim
lr = 0.05
momentum = 0.9

[strategy]
name = "fedavg"                     # silofl strategies lists all

[secure]
protocol = "auto"                   # nobody sees another's update, with three silos or more

# A bound on what the model tells of any record (docs/privacy.md). With it: strategy.name = "fedsgd", without
# epochs, batch_size, optimizer, lr and momentum of [train]; data.standardize then needs data.bounds.
# [privacy]
# unit = "example"
# target_epsilon = 3.0
# delta = 1e-4
# sample_rate = 0.1                 # part of the records that a round looks at
"""
_TABLES = (
    _HEAD.format(
        what="Three institutions with a table each. Those in data/ are made up: put yours in their place."
    )
    + _INSTITUTIONS.format(
        path="a column for each feature, and the label: CSV, Parquet or NPZ",
        **{name: f"data/{name}.csv" for name in _NAMES},
    )
    + """
[run]
rounds = 20

[task]
name = "files"
labels = ["benign", "malignant"]    # the words in the column "label", in class order
# head = "regression"               # or "multilabel", "survival": numbers, several labels, times to an event
model = "mlp"                       # or "linear"
hidden = [16]

[data]
standardize = "federated"           # by mean and deviation of all records together, added up securely
test_fraction = 0.2                 # held out for the metrics
"""
    + _TRAINING
)
_IMAGES = (
    _HEAD.format(what="Three institutions with a folder of images each. Those in data/ are made up.")
    + _INSTITUTIONS.format(
        path="a folder of images for each class", **{name: f"data/{name}" for name in _NAMES}
    )
    + """
[run]
rounds = 20

[task]
name = "files"
labels = ["benign", "malignant"]    # the names of the folders, in class order
model = "cnn"
image_size = [16, 16]               # images are resized to [height, width]
channels = 1                        # greys; 3 for colours

[data]
test_fraction = 0.2                 # held out for the metrics
"""
    + _TRAINING
)
_TASK = (
    _HEAD.format(what="A model and data of your own, in my_task.py.")
    + """
[run]
rounds = 20

[task]
factory = "my_task:MyTask"          # module:Class, looked for in the current folder
options = { hidden = 16 }           # what the class is called with
"""
    + _TRAINING
)
_PROGRAM = '''"""The task of silofl.toml: what is trained, and on what. See docs/tasks.md."""

import torch
from torch import nn
from torch.utils.data import TensorDataset


class MyTask:
    """A class with these four methods is a task."""

    kind = "classification"        # what the trained model predicts: silofl predict, silofl.load
    classes = ("benign", "malignant")

    def __init__(self, hidden=16):
        self.hidden = hidden

    def model(self):
        """The same at every silo; it begins with the same values everywhere."""
        return nn.Sequential(nn.Linear(4, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 2))

    def data(self, silo, silos):
        """This silo's samples, for training and held out: read your own here. They never leave it."""
        generator = torch.Generator().manual_seed(silo)
        x = torch.randn(120, 4, generator=generator)
        y = (x[:, 0] + x[:, 1] > 0).long()
        return TensorDataset(x[:96], y[:96]), TensorDataset(x[96:], y[96:])

    def loss(self, model, batch):
        """The mean over a batch."""
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)

    def metrics(self, model, batch):
        """Means by name; silofl.tasks.metrics has AUC and others that are none."""
        x, y = batch
        return {"accuracy": (model(x).argmax(1) == y).float().mean()}
'''


def _tables(folder: Path) -> dict[Path, Callable[[Path], None]]:
    return {folder / "data" / f"{name}.csv": _table(number) for number, name in enumerate(_NAMES)}


def _table(number: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        rng = np.random.default_rng(number)
        count = 120 + 40 * number
        age, glucose, size = rng.normal(60, 12, count), rng.normal(6, 1.5, count), rng.gamma(4, 3, count)
        malignant = (age - 60) / 12 + (size - 12) / 6 + rng.normal(0, 0.5, count) > 0
        lines = ["age,glucose [mmol/l],size [mm],label"]
        lines += [
            f"{a:.0f},{g:.1f},{s:.1f},{_CLASSES[int(m)]}"
            for a, g, s, m in zip(age, glucose, size, malignant, strict=True)
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return write


def _images(folder: Path) -> dict[Path, Callable[[Path], None]]:
    found = {}
    for number, name in enumerate(_NAMES):
        for place, label in enumerate(_CLASSES):
            for k in range(12 + 4 * number):
                found[folder / "data" / name / label / f"{k:02}.png"] = _image(number, place, k)
    return found


def _image(number: int, place: int, k: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        rng = np.random.default_rng([number, place, k])
        y, x = np.mgrid[:16, :16] - rng.uniform(6, 10, (2, 1, 1))
        spot = np.exp(-(x**2 + y**2) / (4.0 + 20.0 * place)) * 180
        pixels = np.clip(spot + rng.normal(40, 12, (16, 16)), 0, 255).astype(np.uint8)
        optional("PIL.Image", "writing images").fromarray(pixels).save(path)

    return write


def _task(folder: Path) -> dict[Path, Callable[[Path], None]]:
    return {folder / "my_task.py": lambda path: _write(path, _PROGRAM)}


STARTS = {"tables": (_TABLES, _tables), "images": (_IMAGES, _images), "task": (_TASK, _task)}
"""By name the configuration, and what else is written."""
EXAMPLES = "examples"
"""Of the same command: the files that come with silofl."""


def write_start(kind: str, folder: Path) -> tuple[list[Path], str]:
    """Write a start into a folder, which is made when missing; what to look at, and what to check first.

    Raises:
        ConfigError: there is no such kind, or a file of that name is there.
        StorageError: a file cannot be written.
        MissingDependencyError: images need pillow.
    """
    if kind == EXAMPLES:
        shipped = shipped_files()
        _write_all({folder / name: _copy(path) for name, path in shipped.items()}, folder)
        return [folder / name for name in shipped], FIRST_EXAMPLE
    if kind not in STARTS:
        raise ConfigError(f"there is no start {kind!r}: take {', '.join((*STARTS, EXAMPLES))}")
    text, make = STARTS[kind]
    described = json.dumps(schema(), indent=1) + "\n"
    files = {
        folder / CONFIG: lambda path: _write(path, text),
        folder / SCHEMA: lambda path: _write(path, described),
        **make(folder),
    }
    if kind == "images":
        optional("PIL.Image", "writing images")
    _write_all(files, folder)
    shown = [path for path in files if path.parent == folder]
    return [*shown, *([folder / "data"] if kind != "task" else [])], CONFIG


def _write_all(files: Mapping[Path, Callable[[Path], None]], folder: Path) -> None:
    taken = [path for path in files if path.exists()]
    if taken:
        raise ConfigError(f"{taken[0]} is there, and nothing is written over: name another folder")
    try:
        for path, write in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
    except OSError as error:
        raise StorageError(f"cannot write into {folder}: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _copy(source: Path) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(source.read_bytes())

    return write
