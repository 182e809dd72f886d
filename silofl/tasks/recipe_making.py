"""The recipe of a run's columns, by what [data] says and what silos have agreed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig
from silofl.errors import DataError
from silofl.tasks.column_kinds import Schema
from silofl.tasks.preprocessing import ColumnRecipe, Kind, Preprocessing
from silofl.tasks.readers.category_texts import MISSING_CATEGORY, OTHER_CATEGORY, category_text
from silofl.tasks.readers.column_roles import OTHERS, tidy
from silofl.tasks.readers.source import CATEGORIES, Samples, unit_of
from silofl.tasks.scaling import Scaling
from silofl.tasks.target_recipe import AS_IT_IS, TargetRecipe

IMAGE = "image"
"""The only column of images."""


@dataclass(frozen=True)
class Agreed:
    """What silos have found together of their columns, by name.

    Attributes:
        scaling: of columns of numbers; None where they are not scaled by statistics.
        means: what stands for missing values of columns whose mean does, by their place among all.
        categories: of columns of which [data] does not list them.
        target: of the model's head; None where it has its own.
    """

    scaling: Scaling | None = None
    means: Mapping[int, float] = field(default_factory=dict)
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    target: TargetRecipe | None = None


def recipe_of(
    data: DataConfig, schema: Schema, agreed: Agreed, *, images: bool, target: TargetRecipe = AS_IT_IS
) -> Preprocessing:
    """What is done to columns of such names and kinds; `Agreed` has what `data` leaves to the silos.

    `target` is what a head does where silos agree on nothing.
    """
    tables = [{tidy(name): one for name, one in table.items()} for table in (data.center, data.scale)]
    center, scale = tables
    impute = {tidy(name): value for name, value in data.impute.items()}
    flags = set(map(tidy, data.flag_missing))
    found, place = [], 0
    for column, (name, kind) in enumerate(schema):
        unit = unit_of(kind)
        if is_categorical(kind):
            found.append(ColumnRecipe(name, "categorical", unit, categories=_categories(data, name, agreed)))
            continue
        shift, width = center.get(name, 0.0), scale.get(name, 1.0)
        if agreed.scaling is not None:
            shift, width = agreed.scaling.center[place], agreed.scaling.scale[place]
        value = impute.get(name, impute.get(OTHERS))
        missing = agreed.means[column] if value == "mean" else value
        kind_of: Kind = "image" if images else "numeric"
        found.append(
            ColumnRecipe(
                name,
                kind_of,
                unit,
                impute=None if images or missing is None else float(missing),
                flag=name in flags,
                center=shift,
                scale=width,
            )
        )
        place += 1
    return Preprocessing(tuple(found), target if agreed.target is None else agreed.target)


def _categories(data: DataConfig, name: str, agreed: Agreed) -> tuple[str, ...]:
    declared = {tidy(one): listed for one, listed in data.categorical.items()}[name]
    if declared != "union":
        return tuple(map(category_text, declared))
    return (*agreed.categories[name], MISSING_CATEGORY, OTHER_CATEGORY)


def is_categorical(kind: str) -> bool:
    """Whether a column of that kind has categories."""
    return kind == CATEGORIES or kind.startswith(f"{CATEGORIES} ")


def numeric_places(schema: Schema) -> list[int]:
    """Which columns have numbers, or images."""
    return [place for place, (_, kind) in enumerate(schema) if not is_categorical(kind)]


def numeric_schema(schema: Schema) -> Schema:
    """Their names and kinds."""
    return [schema[place] for place in numeric_places(schema)]


def numeric_part(data: DataConfig, samples: Samples) -> NDArray[np.floating[Any]]:
    """Columns of numbers (n, d), or images (n, ...); what `data.impute` has a constant for is filled in."""
    if samples.features.ndim != 2:
        return samples.features
    impute = {tidy(name): value for name, value in data.impute.items()}
    places = numeric_places(samples.schema)
    features = samples.features if len(places) == len(samples.schema) else samples.features[:, places]
    if not impute:
        return features
    features = features.copy()
    for column, place in zip(features.T, places, strict=True):
        value = impute.get(samples.schema[place][0], impute.get(OTHERS))
        if isinstance(value, int | float):
            column[np.isnan(column)] = value
    return features


def raw_columns(samples: Samples) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """Samples as `Preprocessing.features` takes them: numbers as they are, categories as texts."""
    if not samples.texts and not any(is_categorical(kind) for _, kind in samples.schema):
        return samples.features
    found: dict[str, NDArray[Any]] = {}
    for (name, kind), column in zip(samples.schema, samples.features.T, strict=True):
        if is_categorical(kind):
            texts = samples.texts.get(name, {})
            found[name] = np.array([texts.get(key, "") for key in column.tolist()], dtype=object)
        else:
            found[name] = column
    return found


def mistaken_columns(data: DataConfig, schema: Schema, target: Sequence[str] = ()) -> list[str]:
    """What is wrong with the names in keys of [data] by column, as parts of a sentence.

    `target` are columns of numbers that are no features, and may be scaled.
    """
    every = {name for name, _ in schema}
    numbers = {name for name, _ in numeric_schema(schema)}
    tables: tuple[tuple[str, Sequence[str], set[str], str], ...] = (
        ("center", tuple(data.center), numbers, "numbers"),
        ("scale", tuple(data.scale), numbers, "numbers"),
        ("impute", tuple(data.impute), numbers, "numbers"),
        ("flag_missing", tuple(data.flag_missing), numbers, "numbers"),
        ("categorical", tuple(data.categorical), every, ""),
    )
    nameless = "" in every
    remedy = "name the file's columns in an array 'columns'" if nameless else "correct the name or remove it"
    found = []
    for key, names, known, of_what in tables:
        for name in map(tidy, names):
            if (key == "impute" and name == OTHERS) or (key in ("center", "scale") and name in target):
                continue
            if nameless or name not in every:
                found.append(f"data.{key} has {name!r}, which is no column of features: {remedy}")
            elif name not in known:
                found.append(f"data.{key} has {name!r}, which is no column of {of_what}: remove it there")
    return found


def described(data: DataConfig, schema: Schema) -> list[tuple[str, str, str]]:
    """Of each column its name, its kind, and what is done to it: as [data] says, without any value."""
    return [(name, kind, _treatment(data, name, kind)) for name, kind in schema]


def _treatment(data: DataConfig, name: str, kind: str) -> str:
    if is_categorical(kind):
        listed = {tidy(one): listed for one, listed in data.categorical.items()}[name]
        if listed != "union":
            return f"a feature for each of {', '.join(listed)}"
        return (
            f"a feature for each category that {data.least_count} training records of some silo have, for "
            "missing and for other; all silos learn these categories, and of how many silos each is"
        )
    impute = {tidy(one): value for one, value in data.impute.items()}
    value = impute.get(name, impute.get(OTHERS))
    found = (
        []
        if value is None
        else ["missing: the mean of all silos" if value == "mean" else f"missing: {value:g}"]
    )
    if name in map(tidy, data.flag_missing):
        found.append("flagged")
    if data.standardize:
        found.append("standardized over all silos")
    center, scale = ({tidy(one): v for one, v in table.items()} for table in (data.center, data.scale))
    if name in center or name in scale:
        found.append(f"(value - {center.get(name, 0):g}) / {scale.get(name, 1):g}")
    return ", ".join(found) or "as it is"


def refuse_images(data: DataConfig, source: str) -> None:
    """Raise DataError where keys are set that are about columns of tables, and the data are images."""
    keys = ("id", "drop", "columns", "categorical", "impute", "flag_missing")
    given = [f"data.{key}" for key in keys if getattr(data, key)]
    if given:
        raise DataError(f"{source} has images and no columns for {' and '.join(given)}: remove what is set")


def scaling_of(recipe: Preprocessing) -> Scaling | None:
    """By feature what is subtracted and by what is divided; None where every feature is as it stands."""
    if all(column.as_it_is or column.kind == "categorical" for column in recipe.columns):
        return None
    center, scale = list[float](), list[float]()
    for column in recipe.columns:
        center += [column.center, *(0.0 for _ in column.features[1:])]
        scale += [column.scale, *(1.0 for _ in column.features[1:])]
    return Scaling(recipe.feature_names, tuple(center), tuple(scale))
