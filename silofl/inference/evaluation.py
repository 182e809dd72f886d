"""`silofl evaluate`: the task's loss and metrics of models on labelled data; also model i on data j."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import TensorDataset

from silofl.config import DataConfig, TaskConfig, TrainConfig
from silofl.errors import ConfigError, DataError
from silofl.inference.model_card import ModelCard
from silofl.inference.trained_model import TrainedModel
from silofl.tasks.base import CollatingTask, SizedDataset
from silofl.tasks.checks import data_of
from silofl.tasks.files import Files
from silofl.tasks.readers.rows import some
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Batches
from silofl.training.evaluate import evaluate
from silofl.training.flat import DTYPES
from silofl.training.metric_states import Evaluation, MetricState, finished
from silofl.types import MetricValue

TOGETHER = "together"
"""What all data sets as one are called."""


class Labelled(NamedTuple):
    """Labelled samples, as a model's task takes them."""

    name: str
    samples: SizedDataset


@dataclass(frozen=True)
class Found:
    """One model on one data set.

    Attributes:
        model: `shared`, or whose personal one it is.
        data: its name.
        samples: how many there are.
        metrics: by name; None where a metric is no number, and lists where it is several.
    """

    model: str
    data: str
    samples: int
    metrics: Mapping[str, MetricValue]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "model": self.model,
            "data": self.data,
            "samples": self.samples,
            "metrics": dict(self.metrics),
        }


@dataclass(frozen=True)
class _Module:
    module: nn.Module


def evaluate_on(model: TrainedModel, data: Sequence[Labelled]) -> list[Found]:
    """Loss and metrics on each data set, and where there are several on all of them as one.

    In the batches of the run's own evaluation, so that on the samples that it held out the bits are its own.
    Metrics that are no means, such as AUC, are those of all samples together, not means over data sets.

    Raises:
        DataError, UserCodeError: what the task reports is no metric, or it raised.
    """
    who = "shared" if model.card.silo is None else f"silo {model.card.silo}"
    found, every = [], list[Evaluation]()
    for number, one in enumerate(data):
        code = UserCode(number, alone=True)
        every.append(_evaluated(model, one.samples, code))
        found.append(Found(who, one.name, every[-1].count, _finished(every[-1], code)))
    if len(every) > 1:
        whole = _pooled(every)
        found.append(Found(who, TOGETHER, whole.count, _finished(whole, UserCode(0, alone=True))))
    return found


def _evaluated(model: TrainedModel, samples: SizedDataset, code: UserCode) -> Evaluation:
    task, first = model.task, next(model.network.parameters(), torch.empty(0))
    collate = task.collate if isinstance(task, CollatingTask) else None
    dtype = DTYPES[model.card.section(TrainConfig).dtype]
    batches = Batches(samples, dtype, first.device, collate=collate, code=code)
    training = model.network.training
    try:
        return evaluate(task, _Module(model.network), batches, model.card.batch_size, code)
    finally:
        model.network.train(training)


def _pooled(every: Iterable[Evaluation]) -> Evaluation:
    whole = Evaluation()
    for one in every:
        whole.count += one.count
        for name, state in one.states.items():
            known = whole.states.get(name)
            if known is None:
                known = MetricState(state.kind, state.shape, state.total * 0, state.finish)
                whole.states[name] = known
            if known.layout != state.layout:
                raise DataError(
                    f"the metric {name!r} is of another shape on another file: report the same on each"
                )
            known.total += state.total
            known.batches += state.batches
            known.undefined += state.undefined
    return whole


def _finished(found: Evaluation, code: UserCode) -> dict[str, MetricValue]:
    return {
        key: value
        for name, state in found.states.items()
        for key, value in finished(name, state, code).items()
    }


def labelled_files(
    model: TrainedModel, paths: Sequence[Path], *, held_out: bool = False, decimal: str = "."
) -> list[Labelled]:
    """The labelled samples of files, each with the columns that the model takes.

    Args:
        model: whose task reads them, `task.name = "files"`.
        paths: of files or folders.
        held_out: only those samples that a run with this seed holds out of training.
        decimal: the sign before decimals in text.

    Raises:
        ConfigError: the model's task reads no files.
        DataError: a file is not what the task takes, or its columns are others than the model's.
    """
    card = model.card
    if not isinstance(model.task, Files):
        raise ConfigError(
            f"a model of {card.task} reads no files: leave them out, and each silo's samples are taken"
        )
    found = []
    for number, path in enumerate(paths):
        files = _reader(card, path, decimal)
        schema = files.read(number).schema
        _refuse_other_columns(card, schema, path)
        data = files.data(number, len(paths))
        parts = [data.test] if held_out else [data.train, data.test]
        tensors = zip(*(part.tensors for part in parts if isinstance(part, TensorDataset)), strict=True)
        found.append(Labelled(str(path), TensorDataset(*map(torch.cat, tensors))))
    return found


def _reader(card: ModelCard, path: Path, decimal: str) -> Files:
    recipe = card.preprocessing
    assert recipe is not None, "files have a recipe"
    units = {column.name: column.unit for column in recipe.columns if column.unit}
    own = {"path": str(path).replace("$", "$$"), "units": units, "decimal": decimal}
    files = Files(card.section(TaskConfig), card.section(DataConfig).model_copy(update=own), card.seed)
    if files.federated:
        files.agree(recipe)
    return files


def _refuse_other_columns(card: ModelCard, schema: Sequence[tuple[str, str]], path: Path) -> None:
    """Raise DataError, naming them, where a file has other columns than the model takes."""
    if tuple(schema) == card.schema:
        return
    mine, theirs = dict(card.schema), dict(schema)
    lost = [name for name in mine if name not in theirs]
    more = [name for name in theirs if name not in mine]
    unlike = [name for name in mine if name in theirs and mine[name] != theirs[name]]
    parts = [
        *([f"has no column {some(lost)}"] if lost else []),
        *([f"has {some(more)}, which the model does not take"] if more else []),
        *(
            [f"has {theirs[unlike[0]]} in {unlike[0]!r}, and the model takes {mine[unlike[0]]}"]
            if unlike
            else []
        ),
    ]
    told = "; ".join(parts) or f"has {len(schema)} column(s), and the model takes {len(card.schema)}"
    raise DataError(f"{path} {told}: give the columns of training")


def held_out_of_silos(model: TrainedModel, silos: int) -> list[Labelled]:
    """The samples that each silo holds out, as the task itself deals or reads them.

    Raises ConfigError for a task that reads files, and DataError where a silo has none.
    """
    if isinstance(model.task, Files):
        raise ConfigError("which files? name labelled data after the run, such as data/south.csv")
    found = []
    for silo in range(silos):
        with UserCode(silo, alone=True).calling("data", model.task.data):
            data = data_of(model.task.data(silo, silos), silo)
        if data.test is not None and len(data.test):
            found.append(Labelled(f"silo {silo}", data.test))
    if not found:
        raise DataError(f"no silo of {model.card.task} holds samples out: there is nothing to evaluate on")
    return found
