"""Sums of bounded columns, with noise, before the first round: counted as round 0 before they can be read.

As a round's sum they are on disk first, in each silo's release log and budget file; taken again after a kill
they have the same noise, and count once. The nonce of a run, which its checkpoints keep, is not there yet:
the noise is bound to the run's id instead, and to what all silos bring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Aggregator, authorize
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config, PrivacyConfig, for_silo
from silofl.crypto.kdf import digest, pack_silos
from silofl.crypto.key_file import silo_key
from silofl.crypto.noise_keys import NONCE_BYTES, NoiseKeys
from silofl.errors import SiloflError
from silofl.federation.own_log import note
from silofl.federation.privacy.budget import PrivacyBudget
from silofl.federation.privacy.data_budget import budget_for
from silofl.federation.privacy.guarantee import plan_for, refuse_over_budget
from silofl.federation.privacy.pipeline import TABLES
from silofl.federation.privacy.release_log import ReleaseLog, log_path
from silofl.privacy.column_statistics import StatisticsPlan
from silofl.privacy.ledger import Ledger
from silofl.privacy.places import PLACES
from silofl.privacy.plan import method_for
from silofl.transforms.noise import identity
from silofl_kernels import NoiseTable, draw_noise

ROUND = 0
"""Which comes before the first."""
PURPOSE = "statistics"

Floats = NDArray[np.float64]


class Summand(Protocol):
    """What one silo brings to the sums."""

    def plan(self, silos: int) -> StatisticsPlan:
        """What is added up, and with how much noise, where so many silos are there; the same on all ranks."""

    def words(self, plan: StatisticsPlan) -> list[int]:
        """This silo's numbers on the plan's grid, (plan.numbers,), the last, or one more, of its records."""


@dataclass(frozen=True)
class OfColumns:
    """Sums of bounded columns.

    Attributes:
        own: (2 d + 1,) as of `Bounded.sums`, in steps of 2^-`power`.
    """

    privacy: PrivacyConfig
    own: list[int]
    power: int

    def plan(self, silos: int) -> StatisticsPlan:
        """See `Summand`."""
        return StatisticsPlan(self.privacy, silos, (len(self.own) - 1) // 2)

    def words(self, plan: StatisticsPlan) -> list[int]:
        """See `Summand`."""
        return plan.on_grid(self.own, self.power)


@dataclass(frozen=True)
class StatisticsTotal:
    """What all silos see.

    Attributes:
        sums: (numbers,) in units of a record, the last the number of records: without noise, and behind
            the others, unless that is protected.
        deviation: of the noise in each.
        spent: what was, and may have been, released for them.
    """

    sums: Floats
    deviation: float
    spent: Ledger


class NoisyStatistics:
    """One rank's part. Made with the run's lock held."""

    def __init__(self, group: ElasticGroup, config: Config, path: Path, run: str) -> None:
        self._group, self._config = group, config
        self._alone = PLACES[config.privacy.place].alone
        silo = group.silo_id
        own = silo_key(config.checkpoint.key_file, silo)
        self._keys = NoiseKeys(own, bytes(NONCE_BYTES), silo, run=bytes.fromhex(run))
        method, log = method_for(config.privacy), ReleaseLog(log_path(path, silo), run)
        data = budget_for(config, silo, path, run, b"")
        self.budget = PrivacyBudget(
            group, config.privacy, method, log, data, lambda text: note(path, silo, text)
        )

    def begin(self) -> None:
        """Take up what a killed run may have shown; collective."""
        self.budget.begin(ROUND - 1)

    def refuse_without_round(self, own: Summand, silos: int) -> None:
        """Raise ConfigError where sums and one round of a run of `silos` have no room together; collective.

        Of a vector of one value in the largest ring, which costs least: the model is not there yet.
        """
        here = len(self._group.members)

        def refuse() -> None:
            with raise_on_all_ranks(self._group.comm):
                if not self.budget.was_begun(ROUND):  # else it is counted
                    self._refuse_without_round(own.plan(here), here, silos)

        self._group.step(refuse)

    def _refuse_without_round(self, sums: StatisticsPlan, here: int, silos: int) -> None:
        privacy = for_silo(self._config, self._group.silo_id).privacy
        if privacy.max_epsilon is None and not privacy.budget_dir:
            return
        sums.refuse_dear()
        before, records = sums.of_sum(here), privacy.records or 1
        plan = replace(plan_for(self._config, 1, records, here, silos, before=before), bits=32)
        noise = plan.noise_multiplier()
        refuse_over_budget(plan, noise)
        self.budget.price = lambda silos, _: plan.of_rounds(noise, 1)
        self.budget.refuse_first()

    def reduce(self, make: Callable[[], Aggregator], own: Summand) -> StatisticsTotal:
        """The noisy sums of what all silos bring; collective.

        `make` gives an aggregator for the silos that are there; collective, too.

        Raises:
            ConfigError: the run's epsilon, or a silo's own budget, has no room for them, or no noise is left.
            StoppedError: a silo's own budget has none any more, or a silo has failed: no run has begun yet.
        """
        found = None
        while found is None:
            aggregator = make()
            try:
                found = self._attempt(aggregator, own)
            except SiloflError:  # which all ranks raise together; after any other they do not meet
                aggregator.close()
                raise
            aggregator.close()
        return found

    def _attempt(self, aggregator: Aggregator, own: Summand) -> StatisticsTotal | None:
        """None where it has to be taken again with other noise."""
        members = aggregator.layout.shards.members
        plan = own.plan(len(members))
        self.budget.price = lambda silos, _: plan.of_sum(silos)
        self._group.step(lambda: self._refuse_dear(plan))
        attempt = self.budget.attempt(ROUND)
        words = np.array(own.words(plan), np.int64)
        table = TABLES[self._config.privacy.mechanism](plan.share)
        tag, common = self._binding(attempt, words, table)
        if not self.budget.repeats(ROUND, attempt, tag.hex()):
            return None
        self._authorize(attempt, tag.hex(), members)
        noisy = words[: plan.numbers] + self._noise(plan.numbers, table, attempt, tag)
        count = [] if plan.counts else [words[-1] / plan.unit]
        terms = np.frombuffer(digest("columns' sums", common, _said(plan)), np.float32)
        sums = aggregator.sum_scalars(np.array([*noisy, *count]), made_from=[terms])
        self.budget.record(ROUND, members)
        sums[: plan.numbers] /= plan.unit
        return StatisticsTotal(sums, plan.deviation(len(members)), self.budget.ledger)

    def _refuse_dear(self, plan: StatisticsPlan) -> None:
        with raise_on_all_ranks(self._group.comm):
            plan.refuse_dear()
            self.budget.refuse_first()

    def _authorize(self, attempt: int, tag: str, members: tuple[int, ...]) -> None:
        def allow(silos: tuple[int, ...]) -> None:
            self.budget.authorize(ROUND, attempt, tag, silos)

        authorize(self._group, allow, members)

    def _binding(self, attempt: int, words: NDArray[Any], table: NoiseTable) -> tuple[bytes, bytes]:
        """What this silo's noise is bound to, and what of it all have in common; collective."""
        own = self._keys.fingerprint(PURPOSE, ROUND, attempt, words, identity(table))
        if self._alone:
            return own, b""
        group = self._group
        silos, told = group.step(lambda: (group.members, group.comm.allgather_bytes(own)))
        common = digest("noise is bound to", pack_silos(silos), *told)
        return digest("noise is bound to", own, common), common

    def _noise(self, numbers: int, table: NoiseTable, attempt: int, tag: bytes) -> NDArray[np.int32]:
        noise = np.zeros(numbers, np.int32)
        draw_noise(noise, table, self._keys.stream(PURPOSE, ROUND, attempt, tag))
        return noise


def _said(plan: StatisticsPlan) -> bytes:
    """What decides noise and grid, as all silos must have it; 12 digits, for libraries differ."""
    return f"{plan.unit} {plan.share:.12g} {plan.numbers} {plan.silos}".encode()
