"""What is shown: one noisy sum, described well enough to say what it costs.

Adjacency is always adding or removing one record (or one silo, where silos are protected).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from silofl.errors import ConfigError

Mechanism = Literal["gaussian", "discrete-gaussian", "skellam"]
MECHANISMS: tuple[str, ...] = get_args(Mechanism)
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

    def to_json(self) -> str:
        """One line of JSON from which `from_json` makes an equal release, to the last bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Release:
        """The release that `to_json` wrote; ConfigError for unknown or missing keys, types, mechanisms."""
        return parse_release(json.loads(text))


def parse_release(entry: object) -> Release:
    """The release of a JSON object; ConfigError for unknown or missing keys, types, mechanisms."""
    known = {field.name for field in fields(Release)}
    if not isinstance(entry, dict) or set(entry) != known:
        raise ConfigError(
            f"a release has the keys {sorted(known)}, not {entry!r}: written by another version?"
        )
    if entry["mechanism"] not in MECHANISMS:
        raise ConfigError(
            f"unknown mechanism {entry['mechanism']!r} of a release; known: {', '.join(MECHANISMS)}"
        )
    numbers = {name: entry[name] for name in known - {"mechanism", "sampler"}}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"a release's {name} is {value!r}; it must be a finite number")
    if not isinstance(entry["sampler"], str):
        raise ConfigError(f"a release's sampler is {entry['sampler']!r}; it must be a name")
    return Release(entry["mechanism"], sampler=entry["sampler"], **{k: float(v) for k, v in numbers.items()})


def check_release(release: Release) -> None:
    """ConfigError, or TooCoarseError, for a release that no accountant supports."""
    name, noise, variance = release.mechanism, release.noise_multiplier, release.variance
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
    if not 0 < rate <= 1:
        raise ConfigError(f"a sample rate of {rate} is not a probability above 0 and up to 1")
    if sampler == "none" and rate != 1:
        raise ConfigError(f"without a sampler the sample rate is 1, not {rate}; use poisson")
    for name in ("slack", "distance"):
        if not 0 <= getattr(release, name) < 1:
            raise ConfigError(f"a release's {name} of {getattr(release, name)} is not a probability below 1")
