"""`silofl stats` under [privacy]: one noisy sum of all silos' tables, counted before it can be read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.config import PrivacyConfig
from silofl.errors import ConfigError
from silofl.federation.preparation import Prepared
from silofl.federation.privacy.guarantee import refuse_unhidden
from silofl.federation.privacy.noisy_statistics import NoisyStatistics
from silofl.federation.standardization import statistics_aggregator
from silofl.federation.start import take_directory
from silofl.privacy.claim import Epsilons, bound, claim, fellows
from silofl.privacy.column_statistics import StatisticsPlan
from silofl.privacy.places import PLACES
from silofl.tasks.bounded_columns import POWER
from silofl.tasks.heads import Head
from silofl.tasks.noisy_tables import NoisyTable, noisy_table
from silofl.tasks.owner_numbers import numbered
from silofl.tasks.readers import Samples
from silofl.tasks.table_statistics import Shown


@dataclass(frozen=True)
class OfTable:
    """One silo's part of the sum: implements `noisy_statistics.Summand`."""

    privacy: PrivacyConfig
    table: NoisyTable
    samples: Samples
    persons: NDArray[np.int64] | None
    """Whose each record is, where persons are protected."""
    multiplier: float

    def plan(self, silos: int) -> StatisticsPlan:
        """See `Summand`."""
        columns = len(self.table.bounds.columns)
        sizes = [size for _, size in self.table.partitions(self.samples)]
        return StatisticsPlan(self.privacy, silos, columns, sum(sizes), len(sizes), self.multiplier)

    def words(self, plan: StatisticsPlan) -> list[int]:
        """See `Summand`."""
        units = len(self.samples.labels) if self.persons is None else len(np.unique(self.persons))
        return [
            *plan.on_grid(self.table.moments(self.samples, self.persons), POWER),
            *self.table.cells(self.samples, self.persons, plan.unit),
            units * plan.unit,
        ]


def noisy_sums(prepared: Prepared, head: Head, shown: Shown, multiplier: float) -> dict[str, Any]:
    """What the noisy sum of all silos' tables tells, and what it cost; collective.

    Raises:
        ConfigError: no bounds, no secure sum, or no room in a budget.
        StoppedError: a silo failed, or its own budget has no room.
    """
    config, group, path = prepared.start.config, prepared.group, prepared.path
    silos, trust, samples = prepared.start.silos, prepared.trust, prepared.samples
    assert samples is not None, "files are read before"
    with raise_on_all_ranks(group.comm):
        if config.privacy.unit in ("client", "silo"):
            unit = config.privacy.unit
            raise ConfigError(
                f'silofl stats adds up records, and privacy.unit = "{unit}" protects all that a {unit} has: '
                "its statistics cannot be shown"
            )
        refuse_unhidden(config, silos)
        table = noisy_table(config.data, samples, head, shown.bins, shown.ranges)
    persons = None if samples.owners is None else numbered(samples.owners)
    by_person = persons if config.privacy.unit == "patient" else None
    own = OfTable(config.privacy, table, samples, by_person, multiplier)
    with take_directory(group, path, trust, resumed=False):
        noisy = NoisyStatistics(group, config, path, str(trust.run))
        noisy.begin()
        total = noisy.reduce(partial(statistics_aggregator, group, config, silos, trust.signer), own)
    told = table.told(samples, total.sums, total.deviation)
    spent = Epsilons(noisy.budget.epsilon(), None)
    if PLACES[config.privacy.place].holds_against_silos:
        spent = Epsilons(spent.observer, noisy.budget.epsilon_against(fellows(config.privacy)))
    of_these = bound(config.privacy, spent, "for these statistics")
    said = claim(config.privacy, of_these, f"noise of multiplier {multiplier:.4g}")
    return {
        **told,
        "unit": "patient" if by_person is not None else "sample",
        "privacy": said,
        "epsilon": spent.observer,
        "delta": config.privacy.delta,
        "silos": list(group.members),
    }
