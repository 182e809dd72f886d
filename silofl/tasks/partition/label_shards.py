"""Label skew by shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.errors import ConfigError
from silofl.tasks.partition.base import Indices, Records


@final
@dataclass(frozen=True)
class Shards:
    """Samples lie at their label plus their place; of equal shards of that line, `per_silo` go to each silo.

    McMahan et al. 2017, section 3, where shards have equal numbers of samples: here that is so as far as
    classes have. With two shards most silos see two classes only.
    """

    per_silo: int

    def assign(self, records: Records, silos: int, rng: np.random.Generator) -> Indices:
        """See `Partitioner.assign`."""
        count = self.per_silo * silos
        if count > records.published:
            raise ConfigError(
                f"data.shards_per_silo = {self.per_silo} for {silos} silos makes {count} shards, more than "
                f"the {records.published} samples: set it to at most {records.published // silos}"
            )
        line = (records.labels + records.places) / records.classes
        shards = np.minimum((line * count).astype(np.intp), count - 1)
        owners: Indices = rng.permutation(count) // self.per_silo
        return owners[shards]
