"""What a run promises: how much noise, on which grid, and what a round of it releases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from silofl.config import PrivacyConfig
from silofl.errors import ConfigError
from silofl.privacy.accountant import Method, epsilon
from silofl.privacy.calibration import noise_multiplier_for
from silofl.privacy.grid import BETA, LEAST_SHARE, Grid, Need, grid_for
from silofl.privacy.places import PLACES, Place
from silofl.privacy.releases import Release
from silofl.types import RingBits
from silofl_kernels import NOISE_DISTANCE

COUNT_UNIT = 128
"""Units of one silo in the count of those within the clipping norm: half of it is added, or taken off."""
COUNT_SENSITIVITY = COUNT_UNIT / 2


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
    """Training samples of all silos together."""
    rounds: int
    steps: int
    """How often a silo releases a noisy vector in a round."""

    def __post_init__(self) -> None:
        if self.needed < 1:
            raise ConfigError(
                f"privacy.colluding = {self.config.colluding} and privacy.dropouts = {self.config.dropouts} "
                f"leave no noise of {self.silos} silos: they must be fewer than the silos together"
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
            )
        )

    def _bound(self) -> float:
        """Largest magnitude that a coordinate of one silo's vector should have, where it is as usual."""
        norm = self.config.clip_norm
        if self.config.unit == "example":
            norm *= max(1.0, 2 * self.config.sample_rate * self.records / self.place.summed(self.silos))
        if not self.rotates:
            return norm
        block = max(1, self.dimensions // self.silos)
        return min(norm, 6 * norm / math.sqrt(block))

    def of_round(self, grid: Grid, survivors: int) -> dict[Release, int]:
        """What one round over so many silos releases, and how often; raises as `of_sum`."""
        counted = {} if self.config.clip_quantile is None else {self.of_count(survivors): 1}
        return {self.of_sum(grid, survivors): self.steps, **counted}

    def of_sum(self, grid: Grid, survivors: int) -> Release:
        """What one noisy sum releases to the observer that the configuration names.

        ConfigError where no noise is left.
        """
        config = self.config
        shares = self.place.shares(survivors, config.colluding)
        if shares < 1:
            raise ConfigError(f"of {survivors} silos' noise none is left beside privacy.colluding")
        sampled = config.unit == "example" and config.sample_rate < 1
        return Release(
            config.mechanism,
            grid.noise_multiplier(shares),
            grid.variance(shares),
            sample_rate=config.sample_rate if sampled else 1.0,
            sampler="poisson" if sampled else "none",
            slack=BETA,
            distance=NOISE_DISTANCE * self.dimensions * self.place.sources(self.silos),
        )

    def of_count(self, survivors: int) -> Release:
        """What the count of silos within the clipping norm releases."""
        variance = self.count_share * max(1, survivors - self.config.colluding)
        multiplier = math.sqrt(variance) / COUNT_SENSITIVITY
        distance = NOISE_DISTANCE * self.silos
        return Release(self.config.mechanism, multiplier, variance, sampler="none", distance=distance)

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
        """`whole` of the first `rounds`."""
        one = self.of_round(self.grid(noise_multiplier), self.silos)
        return {release: rounds * count for release, count in one.items()}

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

    def noise_multiplier(self) -> float:
        """The one configured, or the least that meets `target_epsilon`. ConfigError where none does."""
        if self.config.noise_multiplier is not None:
            return self.config.noise_multiplier
        if self.config.target_epsilon is None:
            raise ConfigError("[privacy] needs noise: set privacy.noise_multiplier or privacy.target_epsilon")
        self._refuse_dear_counts(self.config.target_epsilon)
        return noise_multiplier_for(self.config.target_epsilon, self.config.delta, self.whole, self.method)
