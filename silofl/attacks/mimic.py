"""One silo's update, sent by all attackers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from silofl.attacks.base import Insight, LiveAttack
from silofl.constrained import NonNegativeInt
from silofl.types import Vector


@final
@dataclass(frozen=True)
class Mimic(LiveAttack):
    """Mimic (Karimireddy et al. 2022, section 3): attackers send one silo's update, which then counts most.

    Where silos' data differ, no rule can tell it from honest ones, and what the others have is lost.
    """

    target: NonNegativeInt | None = None
    """Number of that silo; unset, the first whose update attackers know. Without `omniscient` it is one of
    theirs."""

    colludes: ClassVar[bool] = True
    paper = "Karimireddy et al. 2022"

    def refusal(self, silos: int) -> str | None:
        """See `LiveAttack`: attackers have to know the target's update, and another than their own."""
        if self.target is not None and (self.target >= silos or not self.known(self.target)):
            others = "that do not attack" if self.omniscient else "of attack.silos, or set attack.omniscient"
            return f"attackers do not know what silo attack.target = {self.target} sends: name one {others}"
        if self.omniscient or len(set(self.silos)) > 1:
            return None
        return (
            f'attack.name = "mimic" of attack.silos = {list(self.silos)} alone sends its own update: name '
            "two, or set attack.omniscient = true"
        )

    def forge(self, insight: Insight) -> Vector:
        """The target's update, or the first where the target has none in this round."""
        first = min(insight.known)
        return insight.known.get(first if self.target is None else self.target, insight.known[first]).copy()
