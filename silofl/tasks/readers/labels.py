"""From the labels in a file to class numbers that mean the same at every silo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.config import TaskConfig
from silofl.errors import ConfigError
from silofl.tasks.readers.cells import MISSING
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.readers.rows import places


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


def class_of(task: TaskConfig) -> Callable[[str], int]:
    """What makes a label's text the number of its class, or -1.

    Blanks around it and codes of accents do not matter; `1`, `1.0` and `01` are one number, unless two
    classes are called so.
    """
    names = [tidy(name) for name in class_names(task)]
    number = {name: place for place, name in enumerate(names)}
    whole = {_whole(name): place for place, name in reversed(list(enumerate(names)))}
    if len(whole) < len(names):
        whole = {}
    return lambda text: number.get(tidy(text), whole.get(_whole(tidy(text)), -1))


def encode(
    labels: Sequence[Any] | NDArray[Any], task: TaskConfig, what: str, word: str, rows: Sequence[int]
) -> tuple[NDArray[np.int64], list[str]]:
    """Class numbers int64 (n,) of labels (n,): words, integers, booleans or whole floats.

    -1 for what is no class, of which the second result tells: parts of a sentence, as `Samples.problems`.

    Args:
        labels: None, NaN or an empty text where one is missing.
        task: its classes.
        what: the labels' column or array.
        word: what a row is called.
        rows: how each row is called.
    """
    values = labels.tolist() if isinstance(labels, np.ndarray) else labels
    places_of: dict[str, int] = {}
    texts = map(_text, values)
    codes = np.fromiter((places_of.setdefault(text, len(places_of)) for text in texts), np.intp, len(values))
    known = list(places_of)
    classes = np.array(list(map(class_of(task), known)), dtype=np.int64)
    found = classes[codes] if len(codes) else np.empty(0, dtype=np.int64)
    missing = np.array([one.lower() in MISSING for one in known], dtype=bool) & (classes < 0)
    lost, strange = _rows(found, missing[codes], rows), _rows(found, ~missing[codes], rows)
    problems = []
    if lost:
        problems.append(
            f"{what} has {len(lost)} missing value(s) ({places(word, lost)}): label those rows or remove them"
        )
    if strange:
        problems.append(
            f"{what} has {len(strange)} value(s) that are not {expected(task)} ({places(word, strange)}): "
            f"correct them, or {remedy(task)}"
        )
    return found, problems


def _text(label: Any) -> str:
    if isinstance(label, bytes):
        label = label.decode(errors="replace")
    return "" if label is None else str(label).strip()


def _rows(found: NDArray[np.int64], chosen: NDArray[np.bool_], rows: Sequence[int]) -> list[int]:
    return [rows[place] for place in np.flatnonzero((found < 0) & chosen).tolist()]


def _whole(word: str) -> str:
    """`3` for `3.0`, `03` or `+3`; `1` and `0` for truth values; the word itself otherwise."""
    try:
        value = float({"true": "1", "false": "0"}.get(word.lower(), word))
    except ValueError:
        return word
    return str(int(value)) if value.is_integer() else word


def expected(task: TaskConfig) -> str:
    """What a label should be."""
    if task.labels is not None:
        return f"one of task.labels = {task.labels}"
    return f"an integer from 0 to {(task.classes or 0) - 1}"


def remedy(task: TaskConfig) -> str:
    """What else to do about a label that is none, as the rest of a sentence."""
    if task.labels is not None:
        return "add them to task.labels at every silo"
    return "raise task.classes or name the words in task.labels, the same at every silo"
