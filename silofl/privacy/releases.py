"""What is shown: one noisy sum, described well enough to say what it costs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from silofl.config.neighbours import NEIGHBOURS
from silofl.errors import ConfigError

Mechanism = Literal["gaussian", "discrete-gaussian", "skellam"]
MECHANISMS: tuple[str, ...] = get_args(Mechanism)
_COUNTS = ("shares", "known", "dimensions", "process", "group", "tables", "institutions")
_NEWER = {"dimensions", "tail", "ratio", "process", "group", "tables", "institutions"}
"""Numbers that the oldest ledgers have not."""
LEAST_VARIANCE = 16.0
"""Of discrete Gaussian noise, in squared units of the grid, from which on it is seen as a continuous one."""


class TooCoarseError(ConfigError):
    """Discrete noise of so small a variance that the grid is felt."""


@dataclass(frozen=True)
class Release:
    """One noisy sum that was, or will be, shown; what the accountant cannot support it refuses itself."""

    mechanism: Mechanism
    noise_multiplier: float
    """Standard deviation of the noise that counts, over the L2 sensitivity with everything included."""
    variance: float = 0.0
    """Of that noise, in squared units of the grid; 0 for the continuous Gaussian."""
    sample_rate: float = 1.0
    """Probability with which a record takes part, independently of the others."""
    sampler: str = "poisson"
    """`poisson`, or `none` where every record takes part."""
    slack: float = 0.0
    """Probability with which this description fails to hold, whatever the data, such as by rounding."""
    distance: float = 0.0
    """Total variation distance of the noise that is drawn from the noise described."""
    neighbours: str = "replace-special"
    """One of `NEIGHBOURS`: under "replace-one" two records within the sensitivity are twice as far apart."""
    shares: int = 0
    """Of how many silos' equal shares the noise is; 0 where no silo knows a part of it."""
    known: int = 0
    """How many shares beside those are in the sum, which the observer knows."""
    dimensions: int = 0
    """Of the vector that the noise is on; 0 where the noise is not drawn from tables."""
    tail: float = 0.0
    """Probability with which noise is beyond what `ratio` is of: see `drawn.py`."""
    ratio: float = 0.0
    """Mean by which the noise that is drawn changes logarithms of likelihoods, at most: see `drawn.py`."""
    process: int = 0
    """First round of the process that correlated noise is of; 0 for independent noise: `processes.py`."""
    group: int = 0
    """Which of the groups of records the sum is of; those of all others are in none of them."""
    tables: int = 1
    """How many tables' errors the noise of one source has, at most."""
    institutions: int = 1
    """Data of how many silos in the sum may be one person's, each sampled by its silo for itself."""

    @property
    def apart(self) -> int:
        """By how many sensitivities two sums may differ that have all records in them."""
        return self.institutions * (2 if self.neighbours == "replace-one" else 1)

    @property
    def failing(self) -> float:
        """Probability with which all that is said here fails to hold."""
        return self.slack + self.tail

    def as_drawn(self) -> Release:
        """With the `tail` and the `ratio` of noise from tables, where it is."""
        if not self.dimensions:
            return self
        from silofl.privacy.drawn import drawn_noise  # late: it loads the compiler of the kernels

        sources = max(1, self.shares)
        noise, share = self.noise_multiplier / self.apart, self.variance / sources
        sets = 2.0 ** min(self.institutions, 900) - 1  # of silos that have sampled one person, but the empty
        vectors = max(3, 1 + sets * self.apart / self.institutions)
        drawn = drawn_noise(self.mechanism, self.dimensions, noise, sources, share, vectors, self.tables)
        return replace(self, tail=drawn.tail, ratio=drawn.ratio)

    def against(self, silos: int) -> Release | None:
        """The same sum for who knows the noise of so many silos; None where no noise would be left."""
        if not self.shares:
            return self
        left = self.shares + self.known - silos
        if left < 1:
            return None
        part = left / self.shares
        noise, variance = self.noise_multiplier * math.sqrt(part), self.variance * part
        return replace(self, noise_multiplier=noise, variance=variance, shares=left, known=silos).as_drawn()

    def to_json(self) -> str:
        """One line of JSON from which `from_json` makes an equal release, to the last bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Release:
        """The release that `to_json` wrote; ConfigError for unknown or missing keys, types, mechanisms."""
        return parse_release(json.loads(text))


def replaced_in(spent: Iterable[Release]) -> bool:
    """Whether records are replaced by any other. ConfigError for releases of several relations."""
    relations = sorted({release.neighbours for release in spent})
    if len(relations) > 1:
        raise ConfigError(
            f"releases under neighbours = {' and '.join(relations)} do not add up to an epsilon"
        )
    return relations == ["replace-one"]


def refuse_renyi(release: Release) -> None:
    """ConfigError for a release of which no Renyi divergence is known."""
    if release.neighbours == "replace-one" and release.sample_rate < 1:
        raise ConfigError(
            'no Renyi divergence is known of sampled releases under neighbours = "replace-one"; use '
            "accountant = 'pld', or a sample rate of 1"
        )
    if release.institutions > 1 and release.sample_rate < 1:
        raise ConfigError(
            "no Renyi divergence is known of sums for which several silos sample one person; use accountant "
            "= 'pld', or a sample rate of 1"
        )


def seen_by(spent: Mapping[Release, int], silos: int) -> dict[Release, int] | None:
    """`spent` for who knows the noise of so many silos; None where a sum would have none left."""
    found = Counter[Release]()
    for release, count in spent.items():
        seen = release.against(silos)
        if seen is None:
            return None
        found[seen] += count
    return dict(found)


def parse_release(entry: object) -> Release:
    """The release of a JSON object; ConfigError for unknown or missing keys, types, mechanisms."""
    known = {field.name for field in fields(Release)}
    if not isinstance(entry, dict) or _NEWER | set(entry) != known:
        raise ConfigError(
            f"a release has the keys {sorted(known)}, not {entry!r}: written by another version?"
        )
    if entry["mechanism"] not in MECHANISMS:
        raise ConfigError(
            f"unknown mechanism {entry['mechanism']!r} of a release; known: {', '.join(MECHANISMS)}"
        )
    unless_said = {field.name: field.default for field in fields(Release)}
    counts = {name: entry.get(name, unless_said[name]) for name in _COUNTS}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigError(f"a release's {name} is {value!r}; it must be a whole number, 0 or more")
    words = {"mechanism", "sampler", "neighbours", *_COUNTS}
    numbers = {name: entry.get(name, 0.0) for name in known - words}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"a release's {name} is {value!r}; it must be a finite number")
    for name in ("sampler", "neighbours"):
        if not isinstance(entry[name], str):
            raise ConfigError(f"a release's {name} is {entry[name]!r}; it must be a name")
    given: dict[str, Any] = {name: float(value) for name, value in numbers.items()}
    names = {name: entry[name] for name in ("mechanism", "sampler", "neighbours")}
    return Release(**names, **given, **counts)


def check_release(release: Release) -> None:
    """ConfigError, or TooCoarseError, for a release that no accountant supports."""
    name, noise, variance = release.mechanism, release.noise_multiplier, release.variance
    if release.neighbours not in NEIGHBOURS:
        raise ConfigError(
            f"no accountant for neighbours = {release.neighbours!r}; use one of {', '.join(NEIGHBOURS)}"
        )
    if name not in MECHANISMS:
        raise ConfigError(f"no accountant for the mechanism {name!r}; use one of {', '.join(MECHANISMS)}")
    if not (math.isfinite(noise) and noise > 0):
        raise ConfigError(f"no accountant for a noise multiplier of {noise}; it must be a number above 0")
    if not (math.isfinite(variance) and variance >= 0) or (name == "skellam" and variance == 0):
        raise ConfigError(f"{name} noise has a variance of {variance} squared grid units; it must be above 0")
    if name == "discrete-gaussian" and variance < LEAST_VARIANCE:
        raise TooCoarseError(
            f"discrete-gaussian noise has a variance of {variance:g} squared grid units, below the "
            f"{LEAST_VARIANCE:g} needed; use a finer grid (more bits) or more noise"
        )
    _check_sampling(release)


def _check_sampling(release: Release) -> None:
    rate, sampler = release.sample_rate, release.sampler
    if sampler not in ("poisson", "none"):
        raise ConfigError(
            f"no accountant for the sampler {sampler!r}; use poisson, or none with sample_rate 1"
        )
    if release.institutions < 1:
        raise ConfigError(
            f"a release's institutions is {release.institutions}; a person is in one silo at least"
        )
    if not 0 < rate <= 1:
        raise ConfigError(f"a sample rate of {rate} is not a probability above 0 and up to 1")
    if sampler == "none" and rate != 1:
        raise ConfigError(f"without a sampler the sample rate is 1, not {rate}; use poisson")
    for name in ("slack", "distance", "tail"):
        if not 0 <= getattr(release, name) < 1:
            raise ConfigError(f"a release's {name} of {getattr(release, name)} is not a probability below 1")
    if not (math.isfinite(release.ratio) and release.ratio >= 0):
        raise ConfigError(f"a release's ratio of {release.ratio} is not a number of 0 or more")
