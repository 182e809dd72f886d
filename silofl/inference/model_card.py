"""What `model.safetensors` says of itself, so that one file is enough to use the model: its model card.

It is the text `silofl` of the file's metadata, as JSON. No record of anybody's data has a part in it but by
what `summary.json` tells as well, such as the means by which columns are scaled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from silofl import __version__
from silofl.config import Config, DataConfig, RunConfig, TaskConfig, TrainConfig, resumption_tables
from silofl.errors import DataError
from silofl.tasks.base import Task
from silofl.tasks.column_kinds import Schema
from silofl.tasks.heads import HEADS
from silofl.tasks.outputs import Outputs
from silofl.tasks.preprocessing import Preprocessing
from silofl.tasks.registry import TASKS
from silofl.tasks.target_recipe import AS_IT_IS

S = TypeVar("S", TaskConfig, DataConfig, TrainConfig)
KEY = "silofl"
"""Of the metadata."""
FORMAT = 1
_LARGEST_HEAD = 100_000_000
"""Bytes of a safetensors header, at most: what the library itself takes."""
_MOST_LAYERS = 1000
"""Hidden layers: a file with many more would be built for minutes before its tensors are looked at."""
KINDS = (*HEADS, "")
"""What a model's outputs are; empty where the task does not tell."""


@dataclass(frozen=True)
class ModelCard:
    """A model's description.

    Attributes:
        version: of silofl that wrote it.
        task: what the configuration names, or the class of a task that a program gave.
        given: whether a program gave the task.
        kind: one of KINDS.
        classes: their names, in the order of the outputs.
        shape: of a sample as the network takes it; empty where that is not known.
        schema: name and kind of each raw column, where the task tells of them.
        preprocessing: what is done to raw columns before the network; None: nothing.
        silo: whose personal model it is; None for the shared one.
        configuration: the tables that all silos have in common, as JSON.
    """

    task: str
    given: bool
    kind: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    schema: Schema
    preprocessing: Preprocessing | None
    configuration: Mapping[str, Any]
    silo: int | None = None
    version: str = __version__

    @classmethod
    def of(cls, config: Config, task: Task, schema: Schema, silo: int | None = None) -> Self:
        """The card of a model that a run has trained; `schema` of the columns that the task read."""
        chosen = config.task
        built_in = chosen.factory == "" and TASKS.get(chosen.name, "") == _place(task)
        kind = getattr(task, "kind", "")
        return cls(
            task=chosen.factory or (chosen.name if built_in else _place(task)),
            given=not (chosen.factory or built_in),
            kind=kind if kind in KINDS else "",
            classes=tuple(map(str, getattr(task, "classes", ()) or ())),
            shape=tuple(getattr(task, "shape", None) or ()) if built_in else (),
            schema=tuple((str(name), str(kind)) for name, kind in schema),
            preprocessing=preprocessing_of(task),
            configuration=resumption_tables(config),
            silo=silo,
        )

    @property
    def head(self) -> Outputs:
        """What becomes of outputs: by its kind, with the names and the constants of the run."""
        recipe = AS_IT_IS if self.preprocessing is None else self.preprocessing.target
        if self.kind == "survival" and not recipe.ends:  # of a task of one's own
            return Outputs(self.classes)
        return HEADS.get(self.kind, Outputs)(self.classes, recipe)

    @property
    def own(self) -> bool:
        """Whether the task is code of a user's."""
        return self.given or bool(self.section(TaskConfig).factory)

    @property
    def batch_size(self) -> int:
        """Samples that the run evaluated together."""
        train = self.section(TrainConfig)
        return train.eval_batch_size or train.batch_size

    @property
    def seed(self) -> int:
        """`run.seed`."""
        return int(self.configuration["run"]["seed"])

    def section(self, kind: type[S]) -> S:
        """A section of the configuration: TaskConfig, DataConfig or TrainConfig."""
        return kind.model_validate(self.configuration[_SECTIONS[kind]])

    def metadata(self) -> dict[str, str]:
        """What the file's metadata have."""
        return {KEY: json.dumps(self.to_json(), sort_keys=True)}

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        table = asdict(self) | {
            "format": FORMAT,
            "schema": [list(one) for one in self.schema],
            "classes": list(self.classes),
            "shape": list(self.shape),
            "preprocessing": None if self.preprocessing is None else self.preprocessing.to_json(),
            "configuration": dict(self.configuration),
        }
        return dict(sorted(table.items()))

    @classmethod
    def from_json(cls, told: Any) -> Self:
        """From `to_json`. An error of Python's or pydantic's for what is none."""
        if told.pop("format") != FORMAT:
            raise ValueError("another format")
        recipe = told["preprocessing"]
        table = told | {
            "classes": tuple(map(str, told["classes"])),
            "shape": tuple(map(int, told["shape"])),
            "schema": tuple((str(name), str(kind)) for name, kind in told["schema"]),
            "preprocessing": None if recipe is None else Preprocessing.from_json(recipe),
        }
        card = cls(**table)
        for kind in _SECTIONS:
            card.section(kind)
        task = card.section(TaskConfig)
        RunConfig(seed=card.seed)
        if card.kind not in KINDS or min(card.shape, default=1) < 1 or len(task.hidden) > _MOST_LAYERS:
            raise ValueError("a kind, a shape or layers that no model has")
        if not card.given and card.task != (task.factory or task.name):
            raise ValueError("two tasks")
        return card


_TOO_LARGE = (OverflowError, RecursionError)
"""For numbers of JSON, and for its depth."""
_SECTIONS: dict[type[Any], str] = {TaskConfig: "task", DataConfig: "data", TrainConfig: "train"}


def preprocessing_of(task: Task) -> Preprocessing | None:
    """What a task does to raw columns before its model; None where it does nothing that is known."""
    told = getattr(task, "preprocessing", None)
    return told if isinstance(told, Preprocessing) else None


def read_card(path: Path) -> ModelCard:
    """The card of a file. Raises DataError, one sentence, where there is no file, or none in it."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(length)) if length <= _LARGEST_HEAD else {}
        told = head["__metadata__"][KEY]
    except OSError as error:
        raise DataError(f"cannot read the model {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(
            f"{path} does not say what it takes, as a file of an earlier silofl or of another program: train "
            "again, or load its tensors by safetensors.torch.load_file"
        ) from None
    try:
        return ModelCard.from_json(json.loads(told))
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError, *_TOO_LARGE):
        raise DataError(
            f"{path} says of itself what silofl {__version__} does not read: it is damaged, or of another "
            "version; load it with the one that wrote it"
        ) from None


def _place(task: Task) -> str:
    return f"{type(task).__module__}:{type(task).__qualname__}"
