"""An institution's own data, from a file or a folder of images."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from silofl.config import DataConfig, TaskConfig, silo_path
from silofl.console import log
from silofl.errors import ConfigError
from silofl.tasks.base import Schema, SiloData
from silofl.tasks.classification import Classification
from silofl.tasks.holdout import silo_data
from silofl.tasks.models import build_model
from silofl.tasks.readers import Options, Samples, Source, read
from silofl.tasks.readers.labels import class_names
from silofl.tasks.readers.rows import some

EXACT_FLOAT32 = 2**24
"""Beyond it float32 does not have every whole number."""


@final
class Files(Classification):
    """The samples in `data.path`: NPZ, CSV or Parquet, or a folder of images for each class.

    What of it was passed over is said in one line on standard error.

    `{silo}` in the path stands for the silo's number; a path without it is each institution's own. Features
    of tables are sorted by column name, the same at every silo if the names are. All samples are held in
    memory as float32: (d,) for tables, (1, height, width) for images.
    """

    def __init__(self, task: TaskConfig, data: DataConfig, seed: int) -> None:
        if not data.path:
            raise ConfigError(
                "data.path is empty and task.name = 'files' needs it: set it to this silo's file or folder, "
                "for example data/silo-{silo}.csv"
            )
        if len(task.image_size) != 2:
            raise ConfigError(f"task.image_size = {task.image_size} is not [height, width]")
        self._task, self._data, self._seed = task, data, seed
        self._classes = len(class_names(task))
        self._shape: tuple[int, ...] | None = None
        self._schema: Schema = ()
        self.magnitudes: NDArray[np.float64] = np.empty(0)
        """(d,) of the table that was read last: each column's median of |x| over values that are not zero."""

    def model(self) -> nn.Module:
        """The model of `task.model`, as wide as the data. Raises ConfigError before `data` was called."""
        if self._shape is None:
            raise ConfigError(
                "the width of the model comes from the data: call data(silo, silos) before model()"
            )
        return build_model(self._task, self._shape, self._classes)

    def schema(self) -> Schema:
        """See `DescribedTask`."""
        return self._schema

    def data(self, silo: int, silos: int) -> SiloData:
        """Read this silo's samples.

        Raises:
            DataError: one sentence with the path, the silo and what is wrong there.
            MissingDependencyError: the file needs pyarrow or pillow.
        """
        source = Source(silo_path(self._data.path, silo, "data.path"), silo)
        samples = read(source, Options(self._task, self._data.decimal))
        notices = [*samples.notices, *([] if self._data.standardize else _rounded(samples))]
        if notices:
            log(f"silo {silo}: in {source.path} {'; '.join(notices)}")
        self._shape, self._schema = samples.features.shape[1:], samples.schema
        self.magnitudes = _magnitudes(samples.features)
        return silo_data(
            samples.features,
            samples.labels,
            fraction=self._data.test_fraction,
            seed=self._seed,
            silo=silo,
            standardize=self._data.standardize,
            name=str(source),
        )


def _rounded(samples: Samples) -> list[str]:
    """Columns of large numbers, such as identifiers or times, that differ and are equal as float32."""
    names = [
        name
        for (name, _), column in zip(samples.schema, samples.features.T, strict=False)
        if column.ndim == 1
        and np.abs(column).max() > EXACT_FLOAT32
        and len(np.unique(column.astype(np.float32))) < len(np.unique(column))
    ]
    if not names:
        return []
    return [
        f"different values of {some(names)} are equal as float32: set data.standardize = true, or "
        "remove what is an identifier"
    ]


def _magnitudes(features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    if features.ndim != 2:
        return np.empty(0)
    sizes = [np.abs(column[column != 0]) for column in features.T]
    return np.array([np.median(one) if len(one) else 0.0 for one in sizes])
