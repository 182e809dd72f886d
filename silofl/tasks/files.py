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
from silofl.tasks.category_union import frequent
from silofl.tasks.column_kinds import Schema
from silofl.tasks.headed import Headed
from silofl.tasks.heads.base import Agreement, Head
from silofl.tasks.holdout import held_out, owners_held_out, silo_data
from silofl.tasks.models import build_model
from silofl.tasks.own_files import OwnFiles, magnitudes
from silofl.tasks.owner_numbers import numbered
from silofl.tasks.preprocessing import Preprocessing
from silofl.tasks.readers import Samples
from silofl.tasks.recipe_making import (
    Agreed,
    numeric_part,
    numeric_schema,
    raw_columns,
    recipe_of,
    scaling_of,
)
from silofl.tasks.scaling import Scaling


@final
class Files(Headed):
    """The samples in `data.path`: NPZ, CSV or Parquet, or a folder of images for each class.

    `{silo}` in the path stands for the silo's number; a path without it is each institution's own. Columns
    of tables are sorted by name, the same at every silo if the names are. All samples are held in
    memory as float32: (d,) for tables, (channels, height, width) for images. What is learnt is the head's,
    `task.head`.
    """

    def __init__(self, task: TaskConfig, data: DataConfig, seed: int) -> None:
        self._files = OwnFiles(task, data, seed)
        self.head = self._files.head
        self._task, self._data, self._seed = task, data, seed
        self._read: dict[int, Samples] = {}
        self._sample: tuple[int, ...] = ()
        self._shape: tuple[int, ...] | None = None
        self._schema: Schema = ()
        self.target_schema: Schema = ()
        """Name and kind of each column of a target of numbers, of the table that was read last."""
        self.magnitudes: NDArray[np.float64] = np.empty(0)
        """See `magnitudes`, of the table that was read last."""
        self.passed_over: tuple[str, ...] = ()
        """Columns of the table that was read last that are no features."""
        self._agreed: Preprocessing | None = None
        self.preprocessing: Preprocessing | None = None
        """Of the columns that `data` read last."""

    def model(self) -> nn.Module:
        """The model of `task.model`, as wide as the data. Raises ConfigError before `data` was called."""
        if self._shape is None:
            raise ConfigError(
                "the width of the model comes from the data: call data(silo, silos) before model()"
            )
        return build_model(self._task, self._shape, self.head.outputs)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of a sample, as the model takes it; None before data were read."""
        return self._shape

    @property
    def classes(self) -> list[str]:
        """Names of the model's outputs, in their order; see `Head.names`."""
        return list(self.head.names)

    def expect(self, shape: tuple[int, ...]) -> None:
        """Let `model` be of samples of this shape, without any data."""
        self._shape = shape

    @property
    def described_head(self) -> Head:
        """That of [task] and [data], before silos have agreed on anything."""
        return self._files.head

    def schema(self) -> Schema:
        """See `DescribedTask`."""
        return self._schema

    @property
    def federated(self) -> bool:
        """Whether silos find together what is done to columns, which `agree` has to give before `data`."""
        return self._data.agreed or self._files.head.agrees

    @property
    def settings(self) -> DataConfig:
        """What [data] says."""
        return self._data

    def agree(self, preprocessing: Preprocessing) -> None:
        """Make features of all samples so from here on."""
        self._agreed = preprocessing
        self.head = self._files.head.with_recipe(preprocessing.target)

    def recipe(self, agreed: Agreed) -> Preprocessing:
        """What is done to the columns that were read last; `agreed` has what all silos find together."""
        target, images = self._files.head.recipe, len(self._sample) != 1
        return recipe_of(self._data, self._schema, agreed, images=images, target=target)

    @property
    def scaling(self) -> Scaling | None:
        """That of `preprocessing`, by feature; None where features are as they stand in the file."""
        return None if self.preprocessing is None else scaling_of(self.preprocessing)

    def take_up(self, silo: int, samples: Samples) -> None:
        """Let the next `data` of a silo be of samples that were read already; they are let go then."""
        self._read[silo] = samples

    def read(self, silo: int) -> Samples:
        """A silo's samples as they stand in its file, kept for its next `data`; errors: `OwnFiles.read`."""
        if silo not in self._read:
            self._read[silo] = self._files.read(silo)
        samples = self._read[silo]
        self.passed_over = samples.passed_over
        self._sample, self._schema = samples.features.shape[1:], samples.schema
        self.target_schema = samples.targets
        return samples

    def training_numbers(self, silo: int) -> NDArray[np.floating[Any]]:
        """Columns of numbers (m, d), or images (m, ...), of a silo's training samples; errors as of `read`.

        As they stand in its file, but for missing values that constants stand for; NaN for others.
        """
        samples = self.read(silo)
        return numeric_part(self._data, samples)[~self._held_out(samples)]

    def frequent_categories(self, silo: int) -> dict[str, list[str]]:
        """Those of each column of "union" that `data.least_count` training records, or persons, have."""
        samples = self.read(silo)
        return frequent(self._data, samples, ~self._held_out(samples))

    def target_agreement(self, silo: int) -> Agreement | None:
        """How the head's recipe is found by a silo's training targets; None where it is configured."""
        head, samples = self._files.head, self.read(silo)
        return head.agreement(samples.labels[~self._held_out(samples)]) if head.agrees else None

    def bounded(self, silo: int) -> Bounded:
        """A silo's columns of numbers within `data.bounds`; errors as of `read`."""
        return bounded(self._data, numeric_schema(self.read(silo).schema))

    def bounded_sums(self, silo: int, *, by_person: bool) -> list[int]:
        """See `Bounded.sums`, over a silo's training records, or its persons'; errors as of `read`."""
        samples = self.read(silo)
        training = ~self._held_out(samples)
        persons = None
        if by_person:
            assert samples.owners is not None, "refused when the configuration was read"
            persons = numbered(samples.owners[training])
        return self.bounded(silo).sums(self.training_numbers(silo), persons)

    def data(self, silo: int, silos: int) -> SiloData:
        """This silo's samples; errors as of `read`, and DataError for fewer than two, or none to train on.

        ConfigError where the silos of a run have to agree on statistics first.
        """
        source, samples = str(self._files.source(silo)), self.read(silo)
        del self._read[silo]
        self.magnitudes = magnitudes(samples)
        recipe = self._agreed if self.federated else self.recipe(Agreed())
        if recipe is None:
            raise ConfigError(
                'data.standardize = "federated", data.impute = "mean", categories of "union", "balanced" '
                "weights and a number of intervals are of all silos' records, which a run adds up at its "
                "start: set constants and lists in their place to read a silo's data by itself"
            )
        features = recipe.features(raw_columns(samples), source)
        self.head = self._files.head.with_recipe(recipe.target)
        self.preprocessing, self._shape = recipe, features.shape[1:]
        held, owners = self._held_out(samples), samples.owners
        targets = self.head.targets(samples.labels)
        return silo_data(features, targets, held, silo=silo, name=source, owners=owners)

    def _held_out(self, samples: Samples) -> NDArray[np.bool_]:
        if samples.owners is not None:
            return owners_held_out(samples.owners, self._data.test_fraction)
        return held_out(samples.features, samples.labels, self._data.test_fraction, self._seed)
