"""Virtual time: when silos whose training takes known seconds have trained, and which sums they are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from silofl.topologies.arrangements._buffering import Buffering, Opening


@dataclass
class VirtualTime:
    """A discrete-event clock of silos that train, and of sums that open as `rule` says; no silo is run.

    Attributes:
        rule: when a sum opens.
        seconds: of each silo's local training, and of what it does beside that in a round.
        now_s: when the sum before opened.
        bases: by silo, the round whose result it trains from.
        ends: by silo, when its training is over.
    """

    rule: Buffering
    seconds: Sequence[float]
    now_s: float = 0.0
    bases: dict[int, int] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)

    def begin(self, bases: Mapping[int, int]) -> None:
        """Let silos train from the results of rounds: those that are told another than before begin now.

        Silos that are not named are not there.
        """
        ends = {
            silo: self.ends[silo] if self.bases.get(silo) == base else self.now_s + self.seconds[silo]
            for silo, base in bases.items()
        }
        self.bases, self.ends = dict(bases), ends

    def opening(self, number: int) -> Opening:
        """The next sum, that of round `number`; the clock stays."""
        return self.rule.virtual_opening(number, self.bases, self.ends, self.now_s)

    def state(self) -> dict[str, Any]:
        """As a checkpoint has it."""
        silos = sorted(self.ends)
        return {"now_s": self.now_s, "silos": {str(k): [self.bases[k], self.ends[k]] for k in silos}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        told = {int(silo): one for silo, one in state["silos"].items()}
        self.now_s = float(state["now_s"])
        self.bases = {silo: int(base) for silo, (base, _) in told.items()}
        self.ends = {silo: float(end) for silo, (_, end) in told.items()}


@dataclass(frozen=True)
class VirtualRound:
    """One round in virtual time.

    Attributes:
        opened_s: when its sum opened, in seconds from the start.
        silos: whose updates are in it.
        staleness: of each of these updates, in their order.
    """

    opened_s: float
    silos: tuple[int, ...]
    staleness: tuple[int, ...]


def virtual_rounds(rule: Buffering, seconds: Sequence[float], rounds: int) -> list[VirtualRound]:
    """The first so many rounds of silos that never fail.

    `seconds` are of each silo's cycle: its local training, and the sum, step and evaluation behind it.
    """
    clock, found = VirtualTime(rule, seconds), list[VirtualRound]()
    bases = dict.fromkeys(range(len(seconds)), 0)
    for number in range(1, rounds + 1):
        clock.begin(bases)
        opening = clock.opening(number)
        staleness = tuple(number - 1 - bases[silo] for silo in opening.silos)
        found.append(VirtualRound(opening.at_s, opening.silos, staleness))
        clock.now_s = opening.at_s
        bases |= dict.fromkeys(opening.silos, number)
    return found
