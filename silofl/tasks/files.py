"""An institution's own data, from a file or a folder of images."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from silofl.config import DataConfig, TaskConfig
from silofl.errors import ConfigError
from silofl.tasks.base import SiloData
from silofl.tasks.bounded_columns import Bounded, bounded
from silofl.tasks.classification import Classification
from silofl.tasks.column_kinds import Schema
from silofl.tasks.holdout import held_out, owners_held_out, silo_data
from silofl.tasks.models import build_model
from silofl.tasks.own_files import OwnFiles, magnitudes
from silofl.tasks.owner_numbers import numbered
from silofl.tasks.readers import Samples
from silofl.tasks.scaling import Scaling, public_scaling


@final
class Files(Classification):
    """The samples in `data.path`: NPZ, CSV or Parquet, or a folder of images for each class.

    `{silo}` in the path stands for the silo's number; a path without it is each institution's own. Features
    of tables are sorted by column name, the same at every silo if the names are. All samples are held in
    memory as float32: (d,) for tables, (channels, height, width) for images.
    """

    def __init__(self, task: TaskConfig, data: DataConfig, seed: int) -> None:
        self._files = OwnFiles(task, data, seed)
        self._task, self._data, self._seed = task, data, seed
        self._read: dict[int, Samples] = {}
        self._shape: tuple[int, ...] | None = None
        self._schema: Schema = ()
        self.magnitudes: NDArray[np.float64] = np.empty(0)
        """See `magnitudes`, of the table that was read last."""
        self._agreed: Scaling | None = None
        self.scaling: Scaling | None = None
        """Of the columns that were read last; None where they are as they stand in the file."""

    def model(self) -> nn.Module:
        """The model of `task.model`, as wide as the data. Raises ConfigError before `data` was called."""
        if self._shape is None:
            raise ConfigError(
                "the width of the model comes from the data: call data(silo, silos) before model()"
            )
        return build_model(self._task, self._shape, self._files.classes)

    def schema(self) -> Schema:
        """See `DescribedTask`."""
        return self._schema

    @property
    def federated(self) -> bool:
        """Whether columns are scaled by statistics of all silos, which `agree` has to give before `data`."""
        return self._data.standardize == "federated"

    def agree(self, scaling: Scaling) -> None:
        """Scale the columns of all samples from here on."""
        self._agreed = scaling

    def take_up(self, silo: int, samples: Samples) -> None:
        """Let the next `data` of a silo be of samples that were read already; they are let go then."""
        self._read[silo] = samples

    def read(self, silo: int) -> Samples:
        """A silo's samples as they stand in its file, kept for its next `data`; errors: `OwnFiles.read`."""
        if silo not in self._read:
            self._read[silo] = self._files.read(silo)
        samples = self._read[silo]
        self._shape, self._schema = samples.features.shape[1:], samples.schema
        return samples

    def training_features(self, silo: int) -> NDArray[np.floating[Any]]:
        """Features (m, ...) of a silo's training samples, as they stand in its file; errors as of `read`."""
        samples = self.read(silo)
        return samples.features[~self._held_out(samples)]

    def bounded(self, silo: int) -> Bounded:
        """A silo's columns within `data.bounds`; errors as of `read`."""
        return bounded(self._data, self.read(silo).schema)

    def bounded_sums(self, silo: int, *, by_person: bool) -> list[int]:
        """See `Bounded.sums`, over a silo's training records, or its persons'; errors as of `read`."""
        samples = self.read(silo)
        training = ~self._held_out(samples)
        persons = None
        if by_person:
            assert samples.owners is not None, "refused when the configuration was read"
            persons = numbered(samples.owners[training])
        return self.bounded(silo).sums(samples.features[training], persons)

    def data(self, silo: int, silos: int) -> SiloData:
        """This silo's samples; errors as of `read`, and DataError for fewer than two, or none to train on.

        ConfigError where the silos of a run have to agree on statistics first.
        """
        source, samples = str(self._files.source(silo)), self.read(silo)
        del self._read[silo]
        self.magnitudes = magnitudes(samples.features)
        self.scaling = self._agreed if self.federated else public_scaling(self._data, samples.schema)
        if self.federated and self.scaling is None:
            raise ConfigError(
                'data.standardize = "federated" takes statistics of all silos, which a run agrees on at its '
                "start: set data.center and data.scale to read a silo's data by itself"
            )
        features = samples.features if self.scaling is None else self.scaling.of(samples.features, source)
        held, owners = self._held_out(samples), samples.owners
        return silo_data(features, samples.labels, held, silo=silo, name=source, owners=owners)

    def _held_out(self, samples: Samples) -> NDArray[np.bool_]:
        if samples.owners is not None:
            return owners_held_out(samples.owners, self._data.test_fraction)
        return held_out(samples.features, samples.labels, self._data.test_fraction, self._seed)
