"""Asynchronous federations: sums of those silos that have trained, while the others go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from silofl.constrained import NonNegativeInt, PositiveFloat, PositiveInt, Seconds, UpToOne
from silofl.topologies.arrangements._buffering import Buffering, Staleness, StalenessWeight
from silofl.topologies.arrangements.base import Arrangement

EXPONENT, SLOPE, GRACE = 0.5, 10.0, 4
"""What Xie et al. 2019 found best, for either shape."""


@final
@dataclass(frozen=True)
class Asynchronous(Arrangement):
    """Silos train at their own pace, each from the newest model when it began (FedBuff, Nguyen et al. 2022).

    A round is a buffer: it opens when `buffer` silos have trained, adds up their updates alone, each weighted
    by its staleness, and steps the model. All other silos go on with their training meanwhile, and their
    updates are in a later round. With `method = "fedasync"` (Xie et al. 2019) the model moves towards the
    silos' models instead of by their changes.
    """

    any_pace: ClassVar[bool] = True
    method: Literal["fedbuff", "fedasync"] = "fedbuff"
    """What is added: what local training changed, or what leads to the silo's model: `"fedbuff"` or
    `"fedasync"`."""
    buffer: PositiveInt | None = None
    """K: how many silos' updates open a round's sum. When not set, the fewest that `secure.protocol` adds up,
    which is one in the clear."""
    alpha: UpToOne = 1.0
    """What a fresh update counts, up to 1: alpha of FedAsync, the server's learning rate of FedBuff."""
    staleness: Staleness = "polynomial"
    """How an update counts that was trained from a model t rounds old: `"polynomial"`: (t + 1)^-`exponent`;
    `"hinge"`: 1 up to t = `grace`, then 1 / (`slope` (t - `grace`) + 1); `"constant"`: 1."""
    exponent: PositiveFloat | None = None
    """Of `staleness = "polynomial"`; 0.5 when not set."""
    slope: PositiveFloat | None = None
    """Of `staleness = "hinge"`; 10 when not set."""
    grace: NonNegativeInt | None = None
    """Of `staleness = "hinge"`, rounds; 4 when not set."""
    max_staleness: NonNegativeInt | None = None
    """No update is staler, in rounds: a sum waits for a silo whose update would be in the next one. No bound
    when not set."""
    deadline_s: PositiveFloat | None = None
    """Seconds after which a sum opens with those that have trained, if the protocol adds up so few."""
    seconds: Seconds = ()
    """Seconds that local training of each silo is said to take. Arrivals follow these in place of the clock,
    so that a run is the same bit for bit whenever it is repeated."""

    def refuse(self, ranks: int) -> None:
        """Keys that do nothing, more silos in a buffer than there are, seconds of other silos."""
        shapes = {"exponent": "polynomial", "slope": "hinge", "grace": "hinge"}
        for key, shape in shapes.items():
            if getattr(self, key) is not None and self.staleness != shape:
                raise ValueError(
                    f'topology.{key} = {getattr(self, key):g} is of staleness = "{shape}", and '
                    f'topology.staleness = "{self.staleness}": remove it, or set topology.staleness'
                )
        if self.buffer is not None and self.buffer > ranks:
            raise ValueError(
                f"topology.buffer = {self.buffer} is more than the {ranks} silos there are: set it to "
                f"{ranks} or less, or remove it"
            )
        if self.seconds and len(self.seconds) != ranks:
            raise ValueError(
                f"topology.seconds has {len(self.seconds)} values, and there are {ranks} silos: give one for "
                "each, or remove it"
            )

    def bears(self, ranks: int, seed: int, *, private: bool) -> str:
        """See `Arrangement`."""
        if not private or self.buffer == ranks:
            return ""
        return (
            "sums are of the silos that are first: those of a buffer but one, if they collude and are "
            "faster, or say so, read the update of the one that is left; a larger topology.buffer takes "
            "more of them"
        )

    def buffering(self, fewest: int) -> Buffering:
        """See `Arrangement`."""
        hinge = self.staleness == "hinge"
        a = (self.slope or SLOPE) if hinge else (self.exponent or EXPONENT)
        weight = StalenessWeight(self.staleness, a, GRACE if self.grace is None else self.grace)
        return Buffering(
            fewest if self.buffer is None else self.buffer,
            fewest,
            self.deadline_s,
            self.max_staleness,
            weight,
            self.alpha,
            self.method == "fedasync",
            self.seconds,
        )
