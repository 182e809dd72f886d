"""What silos find together of their columns, by sums of what each of them brings: one generator a silo.

A generator gives a silo's summand, float64 (k,), and takes the sum over all silos in return; in the end it
returns what is done to columns. A run adds up securely; `silofl check` has all silos in one process.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError
from silofl.tasks.category_union import SIZE, table_of, texts_of
from silofl.tasks.files import Files
from silofl.tasks.preprocessing import Preprocessing
from silofl.tasks.readers.column_roles import OTHERS, tidy
from silofl.tasks.recipe_making import Agreed, numeric_places, numeric_schema
from silofl.tasks.scaling import (
    MOST_VALUES,
    Features,
    Scaling,
    first_sums,
    mean_of,
    no_sums_of_records,
    pooled_scaling,
    second_sums,
)

Floats = NDArray[np.float64]
Agreement = Generator[Floats, Floats, Preprocessing]


def column_agreement(task: Files, silo: int, seed: int) -> Agreement:
    """What is done to the columns of a task, of which the silo has read its own.

    Raises:
        DataError: a column of which the mean is wanted has no value at any silo, or one has too many
            categories; or sums that records cannot have. None names a silo.
    """
    data, schema = task.settings, task.schema()
    told = task.frequent_categories(silo)
    categories = {}
    if told:
        total = yield np.concatenate([table_of(texts, seed) for texts in told.values()])
        parts = total.reshape(-1, SIZE)
        categories = {name: texts_of(part, name, seed) for name, part in zip(told, parts, strict=True)}
    impute = {tidy(name): value for name, value in data.impute.items()}
    places = numeric_places(schema)
    missing = [place for place in places if impute.get(schema[place][0], impute.get(OTHERS)) == "mean"]
    scaling: Scaling | None = None
    means = dict[int, float]()
    if missing or data.standardize:
        numbers = task.training_numbers(silo)
        first = yield first_sums(numbers)
        _refuse_impossible(first)
        mean = mean_of(first)
        empty = [place for place in missing if first[1 + places.index(place)] < 1]
        _refuse_empty([schema[place][0] for place in empty])
        means = {place: float(mean[places.index(place)]) for place in missing}
        if data.standardize:
            second = yield second_sums(_filled(numbers, mean), mean)
            scaling = pooled_scaling([name for name, _ in numeric_schema(schema)], first, second)
    of_target = task.target_agreement(silo)
    target = None if of_target is None else (yield from of_target)
    return task.recipe(Agreed(scaling, means, categories, target))


def agree_in_one_process(tasks: Mapping[int, Files], seed: int) -> Preprocessing:
    """The same by all silos' data, by the number of each; errors likewise."""
    silos = [column_agreement(task, silo, seed) for silo, task in tasks.items()]
    try:
        summands = [next(silo) for silo in silos]
        while True:
            total = np.sum(summands, axis=0)
            summands = [silo.send(total) for silo in silos]
    except StopIteration as end:
        found: Preprocessing = end.value
        return found


def _filled(numbers: Features, mean: Floats) -> Features:
    """Numbers (m, d) with means in the place of what is missing."""
    if numbers.ndim != 2 or not np.isnan(numbers).any():
        return numbers
    return np.where(np.isnan(numbers), mean, numbers)


def _refuse_impossible(first: Floats) -> None:
    if not (np.isfinite(first).all() and 1 <= first[0] < MOST_VALUES):
        raise no_sums_of_records()


def _refuse_empty(names: list[str]) -> None:
    if names:
        raise DataError(
            f"column {names[0]!r} has no value at any silo, and so no mean for data.impute: name it in "
            "data.drop, or set a constant",
            rank=0,
        )
