"""What scores are worth that tell members from others: area under the ROC curve, and its lowest part."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
LOW_RATES = (0.01, 0.001)
"""False positive rates at which the true positive rate is told (Carlini et al. 2022, section IV)."""


@dataclass(frozen=True)
class Detected:
    """How many members are found at a false positive rate."""

    false_positive_rate: float
    """At most; what it is, is a number of others over all others."""
    found: int
    of: int
    low: float
    high: float
    """95 % bounds of the true positive rate at that threshold (Clopper and Pearson 1934)."""

    @property
    def rate(self) -> float:
        """The true positive rate."""
        return self.found / self.of


@dataclass(frozen=True)
class Worth:
    """What scores are worth. An attack that knows nothing has an area of a half, whatever its threshold.

    Attributes:
        auc: probability that a member has a larger score than another record, ties counting a half.
        low, high: 95 % bounds of it over draws of members and others (DeLong et al. 1988).
        advantage: largest true less false positive rate of any threshold (Yeom et al. 2018).
        detected: at each of the low rates that there are enough other records for.
    """

    auc: float
    low: float
    high: float
    advantage: float
    detected: tuple[Detected, ...]
    members: int
    others: int

    def text(self) -> str:
        """For people."""
        lines = [
            f"records      {self.members} of training, {self.others} held out",
            f"AUC          {self.auc:.3f} ({self.low:.3f} to {self.high:.3f} at 95 %); 0.5 tells nothing",
            f"advantage    {self.advantage:.3f} of true over false positives at the best threshold",
        ]
        for one in self.detected:
            lines.append(
                f"found        {one.found} of {one.of} records of training at {one.false_positive_rate:.1%} "
                f"false positives ({one.low:.1%} to {one.high:.1%})"
            )
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"detected": [asdict(one) | {"rate": one.rate} for one in self.detected]}


def worth(scores: Floats, members: Bools, rates: tuple[float, ...] = LOW_RATES) -> Worth:
    """What scores (m,) are worth, `members` (m,) being the truth.

    Raises ValueError where there are fewer than two members, or others, or a score is not a number.
    """
    inside, outside = np.sort(scores[members]), np.sort(scores[~members])
    if min(len(inside), len(outside)) < 2 or np.isnan(scores).any():
        raise ValueError(
            f"{len(inside)} members and {len(outside)} others with {np.isnan(scores).sum()} undefined "
            "scores: take two of each at least, with scores"
        )
    below, above = _parts(inside, outside), 1 - _parts(outside, inside)
    auc = float(below.mean())
    error = math.sqrt(below.var(ddof=1) / len(below) + above.var(ddof=1) / len(above))
    reach = NormalDist().inv_cdf(0.975) * error
    cuts = np.unique(scores)
    true = 1 - np.searchsorted(inside, cuts, "left") / len(inside)
    false = 1 - np.searchsorted(outside, cuts, "left") / len(outside)
    return Worth(
        auc,
        max(0.0, auc - reach),
        min(1.0, auc + reach),
        max(0.0, float(np.max(true - false))),
        tuple(_detected(inside, outside, rate) for rate in rates if rate * len(outside) >= 1),
        len(inside),
        len(outside),
    )


def _parts(one: Floats, other: Floats) -> Floats:
    """For each of one (m,) which part of the other, sorted, is below it; equal ones count a half."""
    places = np.searchsorted(other, one, "left") + np.searchsorted(other, one, "right")
    return np.asarray(places / (2 * len(other)))


def _detected(inside: Floats, outside: Floats, rate: float) -> Detected:
    """Members above the lowest threshold that at most so many others are above."""
    from scipy.stats import beta  # type: ignore[import-untyped]  # late: it takes long to load

    cut = outside[len(outside) - 1 - math.floor(rate * len(outside))]
    found, of = int(np.count_nonzero(inside > cut)), len(inside)
    low = float(beta.ppf(0.025, found, of - found + 1)) if found else 0.0
    high = float(beta.ppf(0.975, found + 1, of - found)) if found < of else 1.0
    return Detected(rate, found, of, low, high)
