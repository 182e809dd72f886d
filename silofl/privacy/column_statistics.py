"""Noisy sums of bounded columns before the first round: how much noise, on which grid, and what they release.

A record brings D numbers between -1 and 1: of each column u and 2u^2 - 1, where u is -1 and 1 at the public
bounds (the Chebyshev polynomials of first and second degree), and 1 for itself where how many records there
are is protected. Their L2 norm is sqrt(D) at most, whatever the record.

Beside these a record may be in one cell of each of several partitions, such as the bins of a column: how many
are in each cell are further numbers, of which one record changes one in each partition, by 1.

On the grid 1 is `unit`, a whole number, and a silo's sum is rounded half up, as a whole. That costs nothing:
rounding half up never falls and goes with shifts by whole numbers, so that sums at most `unit` apart are at
most `unit` apart once rounded. One record is worth `unit` * sqrt(D + partitions), exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from silofl.config import PrivacyConfig
from silofl.errors import ConfigError
from silofl.privacy.accountant import epsilon
from silofl.privacy.grid import LEAST_SHARE, MOST_VARIANCE
from silofl.privacy.places import PLACES
from silofl.privacy.plan import method_for
from silofl.privacy.releases import Release

LARGEST_UNIT = 1 << 14
"""Rounding is far below noise from a tenth of that on."""
KEY, OPTION = "privacy.standardize_noise_multiplier", "--noise-multiplier"
"""Where the noise is set: of a run, and of `silofl stats`."""


@dataclass(frozen=True)
class StatisticsPlan:
    """The sums of `columns` over `silos` that are there. The same on every rank; raises ConfigError.

    A unit of protection, a record or the mean of a person's, is within 1 in each of `numbers`, and of all
    cells of a partition together.

    Attributes:
        columns: of which there are moments.
        cells: of all `partitions` together.
        multiplier: of the noise; `privacy.standardize_noise_multiplier` where it is None.
    """

    config: PrivacyConfig
    silos: int
    columns: int
    cells: int = 0
    partitions: int = 0
    multiplier: float | None = None

    def __post_init__(self) -> None:
        if self.needed < 1:
            raise ConfigError(
                f"privacy.colluding = {self.config.colluding} and privacy.dropouts = {self.config.dropouts} "
                f"leave no noise of {self.silos} silos: they must be fewer than the silos together",
                rank=0,
            )
        if self.unit < 1:
            raise ConfigError(
                f"{self._key} = {self._noise:g} on the sums of {self.columns} columns is more noise than "
                f"tables have: set it to {self._largest / math.sqrt(self._squared):.3g} or less",
                rank=0,
            )

    @property
    def counts(self) -> bool:
        """Whether the number of records is one of the noisy sums."""
        return self.config.neighbours == "add-remove"

    @property
    def numbers(self) -> int:
        """To how many noise is added."""
        return 2 * self.columns + self.cells + self.counts

    @property
    def _squared(self) -> int:
        """The square of what one record is worth, where 1 is 1."""
        return 2 * self.columns + self.partitions + self.counts

    @property
    def needed(self) -> int:
        """How many silos' noise must be as much as was promised."""
        if self._alone:
            return 1
        return self.silos - self.config.colluding - self.config.dropouts

    @property
    def _alone(self) -> bool:
        return PLACES[self.config.place].alone

    @property
    def _noise(self) -> float:
        return self.config.standardize_noise_multiplier if self.multiplier is None else self.multiplier

    @property
    def _key(self) -> str:
        return KEY if self.multiplier is None else OPTION

    @property
    def _whose(self) -> str:
        return "data.standardize" if self.multiplier is None else "silofl stats"

    @property
    def _largest(self) -> float:
        """Of noise, in units of the grid, that silos have tables for."""
        return math.sqrt(MOST_VARIANCE * self.needed)

    @property
    def unit(self) -> int:
        """What 1 is on the grid."""
        return min(LARGEST_UNIT, math.floor(self._largest / (self._noise * math.sqrt(self._squared))))

    @property
    def sensitivity(self) -> float:
        """L2 norm of what one record is worth, on the grid."""
        return self.unit * math.sqrt(self._squared)

    @property
    def share(self) -> float:
        """Variance of the noise that each silo adds, in squared units of the grid."""
        return max((self._noise * self.sensitivity) ** 2 / self.needed, LEAST_SHARE)

    def deviation(self, summed: int) -> float:
        """Of the noise in a sum over so many silos, where a record is within 1."""
        return math.sqrt(self.share * summed) / self.unit

    def of_sum(self, survivors: int) -> dict[Release, int]:
        """What the sums over so many silos release, and how often; ConfigError where no noise is left."""
        config, institutions = self.config, self.config.institutions_per_patient
        shares = 1 if self._alone else survivors - config.colluding
        if shares < 1:
            raise ConfigError(f"of {survivors} silos' noise none is left beside privacy.colluding", rank=0)
        variance = self.share * shares
        release = Release(
            config.mechanism,
            math.sqrt(variance) / self.sensitivity,
            variance,
            sampler="none",
            neighbours=config.neighbours,
            shares=0 if self._alone else shares,
            known=0 if self._alone else survivors - shares,
            dimensions=self.numbers,
            institutions=1 if self._alone else institutions,
        ).as_drawn()
        return {release: institutions if self._alone else 1}

    def on_grid(self, sums: Iterable[int], power: int) -> list[int]:
        """Sums in steps of 2^-`power`, rounded half up to the grid."""
        return [(one * self.unit + (1 << power - 1)) >> power for one in sums]

    def refuse_dear(self) -> None:
        """Raise ConfigError where the run's epsilon has no room for these sums alone."""
        alone = epsilon(self.of_sum(self.silos), self.config.delta, method_for(self.config))
        for name in ("target_epsilon", "max_epsilon"):
            most = getattr(self.config, name)
            if most is not None and alone >= most:
                raise ConfigError(
                    f"privacy.{name} = {most:g} cannot be kept: the sums of {self._whose} alone spend "
                    f"epsilon {alone:.3g}; raise {self._key}, now {self._noise:g}",
                    rank=0,
                )
