"""What is done to the columns of a table before the model: one recipe, at training and at prediction.

`Preprocessing` is made before the first round, is the same at every silo, and is published with the model:
`summary.json` has it as `preprocessing`. It holds what scikit-learn's SimpleImputer, StandardScaler and
OneHotEncoder hold once they are fitted, as JSON that does not depend on that library's version.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError
from silofl.tasks.readers.category_texts import (
    MISSING_CATEGORY,
    MISSING_CODE,
    OTHER_CATEGORY,
    UNKNOWN_CODE,
    category_place,
    category_text,
    is_missing,
)
from silofl.tasks.readers.rows import places, some
from silofl.tasks.target_recipe import AS_IT_IS, TargetRecipe

FORMAT = 1
"""Of `Preprocessing.to_json`; `from_json` refuses any other."""
LARGEST = float(np.finfo(np.float32).max)
Kind = Literal["numeric", "categorical", "image"]
Raw = Mapping[str, Any] | NDArray[Any]
"""By the name of each column n numbers or texts (a DataFrame is one, too); or (n, d) numbers in the order of
the recipe's columns, or images (n, channels, height, width)."""


@dataclass(frozen=True)
class ColumnRecipe:
    """One raw column, and the features that it becomes.

    Attributes:
        name: empty where the data name no columns.
        kind: `numeric` becomes one feature, and another where missing values are flagged; `categorical` one
            feature, 0 or 1, for each category; `image` is all pixels together, and the only column.
        unit: as silos declare it; empty where they do not.
        impute: of `numeric`, what stands for a missing value before it is scaled; None where none may miss.
        flag: of `numeric`, whether a feature of its own says that the value is missing.
        center, scale: a feature is (value - center) / scale, computed in float64.
        categories: of `categorical`, in the order of the features. The category `missing` takes what has no
            value, and `other` every text that is no category; without them such values are refused.
    """

    name: str
    kind: Kind = "numeric"
    unit: str = ""
    impute: float | None = None
    flag: bool = False
    center: float = 0.0
    scale: float = 1.0
    categories: tuple[str, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """Their names: `age`, `age missing`, `sex=f`."""
        if self.kind == "categorical":
            return tuple(f"{self.name}={one}" for one in self.categories)
        return (self.name, f"{self.name} missing") if self.flag else (self.name,)

    @property
    def as_it_is(self) -> bool:
        """Whether numbers become features without any change."""
        plain = self.kind != "categorical" and not self.flag and self.impute is None
        return plain and (self.center, self.scale) == (0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it; no number loses a bit."""
        table: dict[str, Any] = {"name": self.name, "kind": self.kind, "unit": self.unit}
        if self.kind == "categorical":
            return {**table, "categories": list(self.categories)}
        scaling = {"center": self.center, "scale": self.scale}
        if self.kind == "image":
            return {**table, **scaling}
        return {**table, "impute": self.impute, "flag": self.flag, **scaling}

    @classmethod
    def from_json(cls, told: Any) -> Self:
        """From `to_json`. ValueError, TypeError or KeyError for what is none."""
        made = cls(**{**told, **({"categories": tuple(told["categories"])} if "categories" in told else {})})
        if made.to_json() != told:
            raise ValueError("not a column of a recipe")
        texts = (made.name, made.kind, made.unit, *made.categories)
        numbers = [made.center, made.scale, *([] if made.impute is None else [made.impute])]
        right = all(isinstance(one, str) for one in texts) and isinstance(made.flag, bool)
        right = right and all(type(one) in (int, float) and math.isfinite(one) for one in numbers)
        many = len(set(made.categories)) == len(made.categories)
        if not (right and made.scale > 0 and many and made.kind in ("numeric", "categorical", "image")):
            raise ValueError("not a column of a recipe")
        if (made.kind == "categorical") != bool(made.categories):
            raise ValueError("a column of categories has some, and no other has any")
        return made


@dataclass(frozen=True)
class Preprocessing:
    """All columns in the order in which the model takes them, and the target.

    Attributes:
        columns: of features.
        target: constants of the model's head.
    """

    columns: tuple[ColumnRecipe, ...]
    target: TargetRecipe = AS_IT_IS

    @property
    def names(self) -> tuple[str, ...]:
        """Of the raw columns; empty texts where the data name none."""
        return tuple(column.name for column in self.columns)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Of the model's inputs, in their order; of images there is one."""
        return tuple(name for column in self.columns for name in column.features)

    @property
    def of_images(self) -> bool:
        """Whether samples are images."""
        return len(self.columns) == 1 and self.columns[0].kind == "image"

    def features(
        self, raw: Raw, source: str = "the table", word: str = "row", rows: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """The model's input, float32 (n, features), or images (n, channels, height, width).

        Columns of `raw` that the recipe does not have are passed over.

        Args:
            raw: see `Raw`. A missing value is NaN, None, or a text such as "" or "NA".
            source: what messages call the data.
            word: what they call a row, and `rows` what each row; counted from 1 when None.

        Raises:
            DataError: a column is not there, or has values that the recipe does not take; one sentence with
                column and rows, and no value.
        """
        if self.of_images:
            return _images(self.columns[0], raw, source)
        by_name = self._by_name(raw, source)
        first = next(iter(by_name.values()), np.empty(0))
        out = np.empty((len(first), len(self.feature_names)), np.float32)
        numbered = range(1, len(first) + 1) if rows is None else rows
        wrong, place = list[str](), 0
        for column, values in zip(self.columns, by_name.values(), strict=True):
            width = len(column.features)
            fill = _one_hot if column.kind == "categorical" else _numbers
            wrong += [
                f"column {column.name!r} has {len(bad)} value(s) {what} ({places(word, bad)}){remedy}"
                for what, remedy, bad in fill(column, values, out[:, place : place + width], numbered)
            ]
            place += width
        if wrong:
            raise DataError(f"{source} does not fit the model: {'; '.join(wrong)}")
        return out

    def _by_name(self, raw: Raw, source: str) -> dict[Any, NDArray[Any]]:
        """Each column's values (n,), in the order of the recipe."""
        if isinstance(raw, np.ndarray):
            if raw.ndim != 2 or raw.shape[1] != len(self.columns):
                raise DataError(
                    f"{source} has the shape {raw.shape}, and the model takes (samples, "
                    f"{len(self.columns)}): give the columns {some(self.names)}"
                )
            return dict(enumerate(raw.T))
        if not all(self.names):
            raise DataError(
                f"{source} has columns by name, and the model was trained on {len(self.columns)} without "
                "names: give an array (samples, columns) in the order of training"
            )
        lost = [name for name in self.names if name not in raw]
        if lost:
            raise DataError(
                f"{source} has no column {some(lost)}, which the model takes: add what is missing, under the "
                "names of training"
            )
        columns = {name: np.asarray(raw[name]) for name in self.names}
        lengths = {one.shape for one in columns.values()}
        if len(lengths) != 1 or len(next(iter(lengths))) != 1:
            raise DataError(f"{source} has columns of unequal lengths: give each sample a value in each")
        return columns

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it; a target to which nothing is done is left out."""
        target = {} if self.target == AS_IT_IS else {"target": self.target.to_json()}
        return {"format": FORMAT, "columns": [column.to_json() for column in self.columns], **target}

    @classmethod
    def from_json(cls, told: Any) -> Self:
        """From `to_json`. ValueError, TypeError or KeyError for what is none."""
        if set(told) - {"target"} != {"format", "columns"} or told["format"] != FORMAT:
            raise ValueError(f"not a recipe of format {FORMAT}")
        target = TargetRecipe.from_json(told["target"]) if "target" in told else AS_IT_IS
        made = cls(tuple(ColumnRecipe.from_json(one) for one in told["columns"]), target)
        named = [name for name in made.names if name]
        if len(set(named)) != len(named) or (any(c.kind == "image" for c in made.columns) != made.of_images):
            raise ValueError("columns of one name, or images among others")
        return made


_Wrong = Iterable[tuple[str, str, list[int]]]
"""What is wrong with values, the remedy behind it, and the rows of such values."""


def _numbers(
    column: ColumnRecipe, values: NDArray[Any], out: NDArray[np.float32], rows: Sequence[int]
) -> Iterator[tuple[str, str, list[int]]]:
    """Fill (n, 1) or (n, 2): the value, and whether it is missing."""
    numbers, strange = as_numbers(values)
    missing = np.isnan(numbers)
    if column.flag:
        out[:, 1] = missing
    if column.impute is not None:
        numbers = np.where(missing & ~strange, column.impute, numbers)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (numbers - column.center) / column.scale
        out[:, 0] = scaled
    if strange.any():
        yield "that are no numbers", ": correct them", _rows(rows, strange)
    if column.impute is None and (missing & ~strange).any():
        yield (
            "missing",
            ", and the model was trained without any: fill them in, or train with data.impute",
            _rows(rows, missing & ~strange),
        )
    large = np.abs(scaled) > LARGEST
    if large.any():
        yield (
            "too large for float32 once scaled",
            ": correct data.center and data.scale, or the values",
            _rows(rows, large),
        )


def _one_hot(
    column: ColumnRecipe, values: NDArray[Any], out: NDArray[np.float32], rows: Sequence[int]
) -> Iterator[tuple[str, str, list[int]]]:
    """Fill (n, categories) by 0, and 1 where the value is the category."""
    place = category_place(column.categories)
    codes = np.fromiter((place(category_text(value)) for value in values.tolist()), np.intp, len(values))
    out[:] = codes[:, None] == np.arange(len(column.categories))
    for code, what, category in (
        (MISSING_CODE, "missing", MISSING_CATEGORY),
        (UNKNOWN_CODE, "that are none of its categories", OTHER_CATEGORY),
    ):
        if (codes == code).any():
            yield (
                what,
                f": correct them, or train with the category {category!r} in data.categorical.{column.name}, "
                "which takes all such",
                _rows(rows, codes == code),
            )


def as_numbers(values: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Float64 (n,), NaN where a value is missing or no number, and where it is none (n,)."""
    if values.dtype.kind in "biuf":
        numbers = values.astype(np.float64)
        infinite = np.isinf(numbers)
        return np.where(infinite, np.nan, numbers), infinite
    numbers, strange = np.full(len(values), np.nan), np.zeros(len(values), np.bool_)
    truths = {"true": 1.0, "false": 0.0}
    for place, value in enumerate(values.tolist()):
        text = category_text(value)
        try:
            numbers[place] = truths[text] if text in truths else math.nan if is_missing(text) else float(text)
        except ValueError:
            strange[place] = True
    strange |= np.isinf(numbers)
    numbers[strange] = np.nan
    return numbers, strange


def _images(column: ColumnRecipe, raw: Raw, source: str) -> NDArray[np.float32]:
    images = raw if isinstance(raw, np.ndarray) else np.asarray(raw[column.name])
    if images.ndim != 4:
        raise DataError(
            f"{source} has the shape {images.shape}, and the model takes images (samples, channels, height, "
            "width): reshape them"
        )
    with np.errstate(over="ignore"):
        scaled = (images.astype(np.float64) - column.center) / column.scale
    if not (np.abs(scaled) <= LARGEST).all():
        raise DataError(
            f"{source} does not fit the model: values of {column.name!r} are too large for float32 once "
            "scaled: correct data.center and data.scale, or the values"
        )
    return scaled.astype(np.float32)


def _rows(rows: Sequence[int], chosen: NDArray[np.bool_]) -> list[int]:
    return [rows[place] for place in np.flatnonzero(chosen).tolist()]
