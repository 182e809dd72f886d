"""From the labels in a file to class numbers that mean the same at every silo."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.config import TaskConfig
from silofl.errors import ConfigError, DataError
from silofl.tasks.readers.source import Source


def class_names(task: TaskConfig) -> list[str]:
    """The labels in class order: `task.labels`, or "0" to "classes - 1".

    Raises:
        ConfigError: neither is set, they contradict each other, or a label is repeated.
    """
    if task.labels is None:
        if task.classes is None:
            raise ConfigError(
                "task.name = 'files' needs task.classes (labels are 0, 1, 2, ...) or task.labels "
                "(the words in class order): set one, the same at every silo"
            )
        return [str(label) for label in range(task.classes)]
    if len(set(task.labels)) != len(task.labels) or len(task.labels) < 2:
        raise ConfigError(f"task.labels = {task.labels} must name at least two classes, each once")
    if task.classes not in (None, len(task.labels)):
        raise ConfigError(
            f"task.classes = {task.classes} contradicts the {len(task.labels)} names in task.labels: "
            "remove task.classes"
        )
    return task.labels


def encode(labels: NDArray[Any], task: TaskConfig, source: Source) -> NDArray[np.int64]:
    """Class numbers int64 (n,) of labels (n,): words, integers, booleans or whole floats.

    Raises:
        DataError: a label that is no class.
    """
    names = class_names(task)
    number = {name: place for place, name in enumerate(names)}
    words, codes = np.unique([str(label).strip() for label in labels.tolist()], return_inverse=True)
    classes = np.empty(len(words), dtype=np.int64)
    for place, word in enumerate(words.tolist()):
        found = number.get(word, number.get(_whole(word)))
        if found is None:
            count = int(np.count_nonzero(codes == place))
            raise DataError(f"label {word!r} of {count} sample(s) in {source} is not {_expected(task)}")
        classes[place] = found
    return classes[codes]


def _whole(word: str) -> str:
    """`3` for `3.0`, `03` or `+3`; `1` and `0` for truth values; the word itself otherwise."""
    try:
        value = float({"true": "1", "false": "0"}.get(word.lower(), word))
    except ValueError:
        return word
    return str(int(value)) if value.is_integer() else word


def _expected(task: TaskConfig) -> str:
    if task.labels is not None:
        return f"one of task.labels = {task.labels}: correct the file, or add it to task.labels at every silo"
    last = (task.classes or 0) - 1
    return (
        f"an integer from 0 to {last}: correct the file, raise task.classes or name the words in task.labels"
    )
