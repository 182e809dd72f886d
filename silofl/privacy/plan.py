"""What a run promises: how much noise, on which grid, and what a round of it releases."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from silofl.config import PrivacyConfig
from silofl.errors import ConfigError
from silofl.privacy.accountant import Method, epsilon
from silofl.privacy.bands import INDEPENDENT, BandMatrix
from silofl.privacy.calibration import noise_multiplier_for
from silofl.privacy.grid import BETA, LEAST_SHARE, MOST_VARIANCE, Grid, Need, grid_for
from silofl.privacy.places import PLACES
from silofl.privacy.places.base import Place
from silofl.privacy.releases import Release, seen_by
from silofl.types import RingBits

MOST_OF_DELTA = 1e-3
"""Part of delta that rounding beyond its bound may take of a run."""
COUNT_UNIT = 128
"""Units of one silo in the count of those within the clipping norm: half of it is added, or taken off."""
COUNT_SENSITIVITY = COUNT_UNIT / 2
CORRELATED_TABLES = 8
"""How often the error of one table a value that is drawn around a centre may be off. The first draw, of
variance v - 5, has 1.21 times that of a table of v, from v = 16 on. The second errs by NOISE_ERROR / 64 at
each of 64 values, on each of which the first falls with 0.4 / sqrt(v - 5) at most: 1.21 * 12 * 0.4 times."""


def method_for(config: PrivacyConfig) -> Method:
    """The accountant's: the loss distribution of Skellam noise on vectors is not known."""
    return "rdp" if config.mechanism == "skellam" else config.accountant


@dataclass(frozen=True)
class Plan:
    """A run of `rounds` with [privacy], as far as its noise goes. The same on every rank."""

    config: PrivacyConfig
    dimensions: int
    """d, values of a vector."""
    bits: RingBits
    """Of the ring in which noise is added; 32 where each silo adds its own alone."""
    silos: int
    """How many are there."""
    records: float
    """Training records, or persons, of all silos together, or as many as the configuration expects."""
    rounds: int
    steps: int
    """How often a silo releases a noisy vector in a round."""
    matrix: BandMatrix = INDEPENDENT
    """By which noise is correlated from round to round."""
    before: tuple[tuple[Release, int], ...] = ()
    """What was, or will be, released before the first round, and how often."""
    participation: float = 1.0
    """With which probability a silo's update is in a round's sum, by a coin that no other silo learns; 1
    where records are protected."""

    def __post_init__(self) -> None:
        if self.needed < 1:
            raise ConfigError(
                f"privacy.colluding = {self.config.colluding} and privacy.dropouts = {self.config.dropouts} "
                f"leave no noise of {self.silos} silos: they must be fewer than the silos together"
            )
        if self.config.clip_quantile is not None and self.count_share > MOST_VARIANCE:
            raise ConfigError(
                f"privacy.quantile_noise_multiplier = {self.config.quantile_noise_multiplier:g} is more "
                f"noise than tables have: of {self.silos} silos each adds a variance of "
                f"{self.count_share:.3g}, and {MOST_VARIANCE:g} is the most; set it lower"
            )

    @property
    def rotates(self) -> bool:
        """Whether vectors are rotated: in small rings, where no coordinate may stand out."""
        chosen = self.config.rotate
        return not self.place.alone and (self.bits < 32 if chosen is None else chosen)

    @property
    def place(self) -> Place:
        """Where noise enters."""
        return PLACES[self.config.place]

    @property
    def method(self) -> Method:
        """The accountant's."""
        return method_for(self.config)

    @property
    def needed(self) -> int:
        """How many sources must be as much noise as was promised."""
        return self.place.needed(self.silos, self.config.colluding, self.config.dropouts)

    @property
    def beta(self) -> float:
        """With which probability rounding may exceed its bound: over the run, little beside delta."""
        releases = self.rounds * self.steps * self.config.institutions_per_patient
        return min(BETA, MOST_OF_DELTA * self.config.delta / max(1, releases))

    def grid(self, noise_multiplier: float) -> Grid:
        """The grid for so much noise. ConfigError where the ring is too small for it."""
        return grid_for(
            Need(
                self.config.clip_norm,
                noise_multiplier,
                self.dimensions,
                self.bits,
                silos=self.place.summed(self.silos),
                shares=self.needed,
                sources=self.place.sources(self.silos),
                bound=self._bound(),
                beta=self.beta,
                column_norm=self.matrix.column_norm,
                spread=self.matrix.spread,
            )
        )

    def _bound(self) -> float:
        """Largest magnitude that a coordinate of one silo's vector should have, where it is as usual."""
        norm = self.config.clip_norm
        if self.config.sampled:
            norm *= max(1.0, 2 * self.config.sample_rate * self.records / self.place.summed(self.silos))
        if not self.rotates:
            return norm
        block = max(1, self.dimensions // self.silos)
        return min(norm, 6 * norm / math.sqrt(block))

    def of_round(self, grid: Grid, survivors: int) -> dict[Release, int]:
        """What one round over so many silos releases, and how often; raises as `of_sum`.

        Where silos show noisy values of their own, and one person may have records in several of them, those
        of as many silos are counted: all silos of a run have the same noise.
        """
        counted = {} if self.config.clip_quantile is None else {self.of_count(survivors): 1}
        alone = self.config.institutions_per_patient if self.place.alone else 1
        return {self.of_sum(grid, survivors): self.steps * alone, **counted}

    def of_sum(self, grid: Grid, survivors: int) -> Release:
        """What one noisy sum releases to the observer that the configuration names.

        ConfigError where no noise is left.
        """
        config = self.config
        shares = self.place.shares(survivors, config.colluding)
        if shares < 1:
            raise ConfigError(f"of {survivors} silos' noise none is left beside privacy.colluding")
        rate = self.rate_in_group if config.sampled else self.participation
        sampled = rate < 1
        institutions = 1 if self.place.alone else config.institutions_per_patient
        vectors = institutions * (2 if config.neighbours == "replace-one" else 1)  # each of which is rounded
        return Release(
            config.mechanism,
            grid.noise_multiplier(shares),
            grid.variance(shares),
            sample_rate=rate if sampled else 1.0,
            sampler="poisson" if sampled else "none",
            slack=vectors * self.beta,
            neighbours=config.neighbours,
            dimensions=self.dimensions * self.matrix.bands,  # of all rows that a record's part moves
            tables=1 if self.matrix.bands == 1 else CORRELATED_TABLES,
            institutions=institutions,
            **self._shared(survivors, shares),
        ).as_drawn()

    @property
    def rate_in_group(self) -> float:
        """With which records take part where they may: with bands those of one group, in turn."""
        return min(1.0, self.config.sample_rate * self.matrix.bands)

    def _shared(self, survivors: int, shares: int) -> dict[str, int]:
        """Of how many silos' shares a sum's noise is, and how many beside those are known."""
        if not self.place.needs_private_sum:
            return {}
        return {"shares": shares, "known": survivors - shares}

    def of_count(self, survivors: int) -> Release:
        """What the count of silos within the clipping norm releases."""
        shares = max(1, survivors - self.config.colluding)
        variance = self.count_share * shares
        return Release(
            self.config.mechanism,
            math.sqrt(variance) / COUNT_SENSITIVITY,
            variance,
            sampler="none",
            neighbours=self.config.neighbours,
            shares=shares,
            known=survivors - shares,
            dimensions=1,
        ).as_drawn()

    @property
    def count_share(self) -> float:
        """Variance of the noise that each silo adds to the count, in squared units."""
        needed = max(1, self.silos - self.config.colluding - self.config.dropouts)
        variance = (self.config.quantile_noise_multiplier * COUNT_SENSITIVITY) ** 2
        return max(variance / needed, LEAST_SHARE)

    def whole(self, noise_multiplier: float) -> Mapping[Release, int]:
        """All that a run in which no silo fails releases."""
        return self.of_rounds(noise_multiplier, self.rounds)

    def of_rounds(self, noise_multiplier: float, rounds: int) -> Mapping[Release, int]:
        """`whole` of the first `rounds`, and of what comes before them."""
        one = self.of_round(self.grid(noise_multiplier), self.silos)
        times = math.ceil(rounds / self.matrix.bands)  # a group of records, at most
        every = Counter({release: times * count for release, count in one.items()})
        every.update(dict(self.before))
        return every

    def spent_after(self, noise_multiplier: float, rounds: int, known: int | None = None) -> float:
        """Epsilon of the first `rounds`, if no silo fails, for who knows the noise of `known` silos.

        Of `privacy.colluding` unless said; infinite where nothing is bounded.
        """
        spent = self.of_rounds(noise_multiplier, rounds)
        if known is not None:
            found = seen_by(spent, known)
            if found is None:
                return math.inf
            spent = found
        return epsilon(spent, self.config.delta, self.method)

    def _refuse_dear_counts(self, target: float) -> None:
        if self.config.clip_quantile is None:
            return
        alone = epsilon({self.of_count(self.silos): self.rounds}, self.config.delta, self.method)
        if alone >= target:
            raise ConfigError(
                f"privacy.target_epsilon = {target:g} cannot be reached: the counts for "
                f"privacy.clip_quantile alone spend epsilon {alone:.3g} in {self.rounds} rounds; raise "
                f"privacy.quantile_noise_multiplier, now {self.config.quantile_noise_multiplier:g}"
            )

    def _refuse_dear_statistics(self, target: float) -> None:
        alone = epsilon(dict(self.before), self.config.delta, self.method)
        if alone >= target:
            raise ConfigError(
                f"privacy.target_epsilon = {target:g} cannot be reached: the sums of data.standardize alone "
                f"spend epsilon {alone:.3g}; raise privacy.standardize_noise_multiplier, now "
                f"{self.config.standardize_noise_multiplier:g}"
            )

    def noise_multiplier(self) -> float:
        """The one configured, or the least that meets `target_epsilon`. ConfigError where none does."""
        if self.config.noise_multiplier is not None:
            return self.config.noise_multiplier
        if self.config.target_epsilon is None:
            raise ConfigError("[privacy] needs noise: set privacy.noise_multiplier or privacy.target_epsilon")
        self._refuse_dear_counts(self.config.target_epsilon)
        self._refuse_dear_statistics(self.config.target_epsilon)
        return noise_multiplier_for(self.config.target_epsilon, self.config.delta, self.whole, self.method)
