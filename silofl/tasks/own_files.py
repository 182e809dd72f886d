"""An institution's own file or folder, read before torch is loaded: most of what is wrong shows here."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig, TaskConfig, silo_path
from silofl.console import log_of_data
from silofl.errors import ConfigError
from silofl.tasks.bounded_columns import mistaken_bounds
from silofl.tasks.column_kinds import Schema
from silofl.tasks.heads import head_of
from silofl.tasks.heads.base import target_names
from silofl.tasks.readers import Options, Samples, Source, read, refuse_missing
from silofl.tasks.readers.column_roles import ColumnRoles, tidy
from silofl.tasks.readers.owners import owner_key
from silofl.tasks.readers.rows import some
from silofl.tasks.readers.source import refuse
from silofl.tasks.recipe_making import (
    mistaken_columns,
    numeric_part,
    numeric_places,
    numeric_schema,
    refuse_images,
)
from silofl.tasks.scaling import public_scaling

EXACT_FLOAT32 = 2**24
"""Beyond it float32 does not have every whole number."""


@final
class OwnFiles:
    """What `data.path` names at each silo. Raises ConfigError where [task] and [data] do not go together."""

    def __init__(self, task: TaskConfig, data: DataConfig, seed: int) -> None:
        if not data.path:
            raise ConfigError(
                "data.path is empty and task.name = 'files' needs it: set it to this silo's file or folder, "
                "for example data/silo-{silo}.csv"
            )
        if len(task.image_size) != 2:
            raise ConfigError(f"task.image_size = {task.image_size} is not [height, width]")
        self._task, self._data = task, data
        self._owner_key = owner_key(seed)
        self.head = head_of(task, data)
        self._measured = {
            name: self.head.rules(place)
            for place, name in enumerate(() if self.head.of_classes else target_names(data))
        }

    def source(self, silo: int) -> Source:
        """A silo's file or folder. Raises ConfigError where the path names a variable that is not there."""
        return Source(silo_path(self._data.path, silo, "data.path"), silo)

    def refuse_missing(self, silo: int) -> None:
        """Raise what `read` would of a file that is not there, as `readers.refuse_missing` does."""
        refuse_missing(self.source(silo))

    def read(self, silo: int) -> Samples:
        """A silo's samples. What of them was passed over is said in one line: see `log_of_data`.

        Raises:
            DataError: one sentence with the path, the silo and what is wrong there.
            MissingDependencyError: the file needs pyarrow or pillow.
        """
        source = self.source(silo)
        data, owner = self._data, tidy(self._data.owner_column)
        roles = ColumnRoles.of(data, self._measured)
        options = Options(
            self._task, data.decimal, data.units, owner=owner, owner_key=self._owner_key, roles=roles
        )
        samples = read(source, options)
        if samples.features.ndim != 2:
            refuse_images(data, str(source))
        schema = numeric_schema(samples.schema)
        refuse(source, mistaken_columns(data, samples.schema, self._scaled()) + mistaken_bounds(data, schema))
        scaling, features = public_scaling(data, schema), numeric_part(data, samples)
        features = features if scaling is None else scaling.of(features, str(source))
        notices = [
            *samples.notices,
            *([] if self._data.standardize else _rounded(schema, features)),
            *self.head.absent(samples.labels),  # which only this silo is told: others learn nothing of it
        ]
        if notices:
            log_of_data(f"silo {silo}: in {source.path} {'; '.join(notices)}")
        return samples

    def _scaled(self) -> tuple[str, ...]:
        """Columns of the target that constants may scale."""
        return tuple(self._measured) if self.head.kind == "regression" else ()


def _rounded(schema: Schema, features: NDArray[np.floating[Any]]) -> list[str]:
    """Columns of large numbers, such as identifiers or times, that differ and are equal as float32."""
    names = [
        name
        for (name, _), column in zip(schema, features.T, strict=False)
        if column.ndim == 1
        and np.abs(column).max(initial=0, where=~np.isnan(column)) > EXACT_FLOAT32
        and len(np.unique(column.astype(np.float32))) < len(np.unique(column))
    ]
    if not names:
        return []
    return [
        f"different values of {some(names)} are equal as float32: set data.center near them or "
        'data.standardize = "federated", or name an identifier in data.id'
    ]


def magnitudes(samples: Samples) -> NDArray[np.float64]:
    """(d,) of a table: each column's median of |x| over numbers that are not zero; () of images."""
    if samples.features.ndim != 2:
        return np.empty(0)
    found = np.zeros(len(samples.schema))
    for place in numeric_places(samples.schema):
        column = samples.features[:, place]
        sizes = np.abs(column[(column != 0) & ~np.isnan(column)])
        found[place] = np.median(sizes) if len(sizes) else 0.0
    return found
