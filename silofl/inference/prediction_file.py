"""`silofl predict`: a file of new samples in, a table of predictions out, in the order of the file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig
from silofl.errors import ConfigError
from silofl.inference.raw_tables import RawTable, read_pictures, read_raw
from silofl.inference.trained_model import TrainedModel


def predictions_of(model: TrainedModel, path: Path, id_column: str = "", decimal: str = ".") -> str:
    """Predictions for a file, as CSV: the identifier or the row, the prediction, and what it is made of.

    Of a classification the class, and the probability of each; of several labels each label's; of numbers
    the number; of survival a risk and survival at each end; of a task of one's own that does not tell, the
    outputs.

    Args:
        model: what predicts.
        path: of the new samples: CSV, Parquet or NPZ, or a folder of images.
        id_column: a column that is copied; that of the run's configuration when empty.
        decimal: the sign before decimals in text.

    Raises:
        DataError: the file, or its columns, are not what the model takes; one sentence without a value.
        ConfigError: `id_column` is not there.
    """
    named = id_column or str(getattr(model.card.section(DataConfig), "id", ""))
    table = _read(model, path, decimal)
    outputs = model.outputs(table.columns, source=str(path), word=table.word, rows=table.rows)
    names, columns = _identifiers(table, named, required=bool(id_column))
    for name, values in model.head.told(outputs):
        names.append(name)
        columns.append(values)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_no_formula, names))
    writer.writerows(zip(*(map(_cell, column.tolist()) for column in columns), strict=True))
    return text.getvalue()


def _read(model: TrainedModel, path: Path, decimal: str) -> RawTable:
    recipe, shape = model.card.preprocessing, model.card.shape
    if path.is_dir() and recipe is not None and recipe.of_images and len(shape) == 3:
        channels, height, width = shape
        return read_pictures(path, (height, width), channels)
    return read_raw(path, next(iter(model.columns), ""), decimal)


def _identifiers(table: RawTable, named: str, *, required: bool) -> tuple[list[str], list[NDArray[Any]]]:
    found = table.column(named)
    if found is not None:
        return [named], [found]
    if required:
        raise ConfigError(f"there is no column {named!r} in the new data: correct --id, or leave it out")
    return [table.word], [np.asarray(table.names or table.rows)]


def _cell(value: Any) -> str:
    """Numbers with as many digits as float32 has; texts that a spreadsheet would compute with, quoted."""
    return f"{value:.9g}" if isinstance(value, float) else _no_formula(str(value))


def _no_formula(text: str) -> str:
    """A text with ' before it where a spreadsheet would take it for a formula, as =cmd|...: OWASP's remedy.

    Names of classes come with the model, identifiers with the data, and either from somebody else.
    """
    if text[:1] not in _STARTS_FORMULA or not text:
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


_STARTS_FORMULA = "=+-@\t\r"
