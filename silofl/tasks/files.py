"""An institution's own data, from a file or a folder of images."""

from __future__ import annotations

from typing import final

from torch import nn

from silofl.config import DataConfig, TaskConfig, silo_path
from silofl.errors import ConfigError
from silofl.tasks.base import SiloData
from silofl.tasks.classification import Classification
from silofl.tasks.holdout import silo_data
from silofl.tasks.models import build_model
from silofl.tasks.readers import Options, Source, read
from silofl.tasks.readers.labels import class_names, encode


@final
class Files(Classification):
    """The samples in `data.path`: NPZ, CSV or Parquet, or a folder of images for each class.

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

    def model(self) -> nn.Module:
        """The model of `task.model`, as wide as the data. Raises ConfigError before `data` was called."""
        if self._shape is None:
            raise ConfigError(
                "the width of the model comes from the data: call data(silo, silos) before model()"
            )
        return build_model(self._task, self._shape, self._classes)

    def data(self, silo: int, silos: int) -> SiloData:
        """Read this silo's samples.

        Raises:
            DataError: one sentence with the path, the silo and what is wrong there.
            MissingDependencyError: the file needs pyarrow or pillow.
        """
        source = Source(silo_path(self._data.path, silo, "data.path"), silo)
        height, width = self._task.image_size
        samples = read(source, Options(self._task.label_column, (height, width)))
        labels = encode(samples.labels, self._task, source)
        self._shape = samples.features.shape[1:]
        return silo_data(
            samples.features,
            labels,
            fraction=self._data.test_fraction,
            seed=self._seed,
            silo=silo,
            standardize=self._data.standardize,
            name=str(source),
        )
