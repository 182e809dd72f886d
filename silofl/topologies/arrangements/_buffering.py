"""Rules of buffered sums: when one opens, over which silos, and how much a stale update counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Staleness = Literal["polynomial", "constant", "hinge"]
"""Shape of the weight of an update by its staleness."""
Silos = tuple[int, ...]


@dataclass(frozen=True)
class StalenessWeight:
    """s(t), from 1 of a fresh update downwards (Xie et al. 2019, "Asynchronous Federated Optimization", 5.2).

    Attributes:
        shape: "polynomial": (t + 1)^-a; "hinge": 1 up to t = b, then 1 / (a (t - b) + 1); "constant": 1.
        a, b: see there.
    """

    shape: Staleness = "polynomial"
    a: float = 0.5
    b: int = 0

    def __call__(self, staleness: int) -> float:
        """The weight of an update that is trained from a model `staleness` rounds older than the newest."""
        if self.shape == "polynomial":
            return float((staleness + 1) ** -self.a)
        if self.shape == "hinge" and staleness > self.b:
            return 1 / (self.a * (staleness - self.b) + 1)
        return 1.0


@dataclass(frozen=True)
class Flight:
    """A silo's local training that is in no sum yet.

    Attributes:
        base: the round whose result it began from; 0: the untrained model.
        ready: whether it is over.
    """

    base: int
    ready: bool


@dataclass(frozen=True)
class Opening:
    """When a sum opens in virtual time, and the silos whose updates are in it."""

    at_s: float
    silos: Silos


@dataclass(frozen=True)
class Buffering:
    """When a sum opens without all silos, and what becomes of the others' updates: they go into a later one.

    Attributes:
        count: how many silos' updates open a sum; fewer where fewer are left.
        fewest: over how many a sum is at least, whatever the deadline says.
        deadline_s: how many seconds after the round before it opens with those that are ready; None: never.
        max_staleness: no update is staler, for a sum waits for one that would be in the next; None: no bound.
        weight: of an update by its staleness.
        alpha: what a fresh update counts.
        mixes_models: whether the global model moves towards the silo's model (FedAsync), or by what local
            training has changed (FedBuff).
        seconds: of each silo's local training, in virtual time that decides arrivals in place of the clock.
    """

    count: int = 1
    fewest: int = 1
    deadline_s: float | None = None
    max_staleness: int | None = None
    weight: StalenessWeight = StalenessWeight()
    alpha: float = 1.0
    mixes_models: bool = False
    seconds: tuple[float, ...] = ()

    def factor(self, staleness: int) -> float:
        """What an update is multiplied by before it is added up."""
        return self.alpha * self.weight(staleness)

    def opening(self, number: int, flights: Mapping[int, Flight], *, late: bool) -> Silos | None:
        """The silos of the sum of round `number`, ascending; None where it has to wait.

        `flights` are of all silos that are there; `late`: whether the deadline is over.
        """
        ready = {silo for silo, one in flights.items() if one.ready}
        enough = min(self.fewest if late else max(self.count, self.fewest), len(flights))
        if len(ready) < enough or not ready.issuperset(self._overdue(number, flights)):
            return None
        return tuple(sorted(ready))

    def virtual_opening(
        self, number: int, bases: Mapping[int, int], ends: Mapping[int, float], began_s: float
    ) -> Opening:
        """The same where silos' training ends at virtual times, in seconds, after a sum at `began_s`."""
        flights = {silo: Flight(base, ready=True) for silo, base in bases.items()}
        order = sorted(ends.values())
        at = order[min(max(self.count, self.fewest), len(order)) - 1]
        if self.deadline_s is not None:
            at = min(at, max(began_s + self.deadline_s, order[min(self.fewest, len(order)) - 1]))
        at = max([at, began_s, *(ends[silo] for silo in self._overdue(number, flights))])
        return Opening(at, tuple(sorted(silo for silo, end in ends.items() if end <= at)))

    def _overdue(self, number: int, flights: Mapping[int, Flight]) -> set[int]:
        """Silos whose updates would be too stale in the round after `number`."""
        if self.max_staleness is None:
            return set()
        return {silo for silo, one in flights.items() if number - 1 - one.base >= self.max_staleness}

    def waits(self, silos: int) -> str:
        """What opens a sum over some of so many silos, in words."""
        enough = min(max(self.count, self.fewest), silos)
        if self.deadline_s is None:
            return f"when {enough} of {silos} silos have trained"
        least = min(self.fewest, silos)
        return (
            f"when {enough} of {silos} silos have trained, or {self.deadline_s:g} s after the round before "
            f"with {least} at least"
        )

    def describe(self, silos: int) -> str:
        """All that decides arrivals, in one line for people."""
        bound = "" if self.max_staleness is None else f"; none is staler than {self.max_staleness} round(s)"
        clock = "; arrivals by topology.seconds, not by the clock" if self.seconds else ""
        return f"a sum opens {self.waits(silos)}{bound}{clock}"
