"""Label skew by shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.errors import ConfigError
from silofl.tasks.partition.base import Features, Indices, Labels


@final
@dataclass(frozen=True)
class Shards:
    """Samples sorted by label, cut into equal shards, `per_silo` random ones for each silo.

    McMahan et al. 2017, section 3: with two shards most silos see two classes only.
    """

    per_silo: int

    def deal(self, features: Features, labels: Labels, silos: int, rng: np.random.Generator) -> list[Indices]:
        """See `Partitioner.deal`."""
        count = self.per_silo * silos
        if count > len(labels):
            raise ConfigError(
                f"data.shards_per_silo = {self.per_silo} for {silos} silos makes {count} shards, more than "
                f"the {len(labels)} samples: set it to at most {len(labels) // silos}"
            )
        shuffled = rng.permutation(len(labels))
        by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
        shards = np.array_split(by_label, count)
        order = rng.permutation(count).reshape(silos, self.per_silo)
        return [np.concatenate([shards[shard] for shard in mine]) for mine in order]
