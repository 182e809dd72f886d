"""As far from the mean as the spread of honest updates hides."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, final

import numpy as np

from silofl.attacks.base import Insight, LiveAttack
from silofl.constrained import PositiveFloat
from silofl.types import Vector


@final
@dataclass(frozen=True)
class ALittleIsEnough(LiveAttack):
    """A little is enough (ALIE; Baruch et al. 2019, algorithm 3): mean - z * deviation, in each coordinate.

    Mean and standard deviation are those of the updates that attackers know, in the paper their own honest
    ones. The deviation is of a sum divided by their number, as in the paper's program; in ByzFL by one less.
    """

    z: PositiveFloat | None = None
    """How many deviations; unset, what n silos hide of f attackers in the paper: the normal quantile
    of (n - f - s) / (n - f), s = floor(n / 2) + 1 - f."""

    colludes: ClassVar[bool] = True
    paper = "Baruch et al. 2019"

    def refusal(self, silos: int) -> str | None:
        """See `LiveAttack`: one update alone has no deviation, and of few attackers none is hidden."""
        attackers = len(set(self.silos))
        if attackers < 2 and not self.omniscient:
            return (
                'attack.name = "alie" takes the deviation of updates that attackers know, and of one, of '
                f"attack.silos = {list(self.silos)}, there is none: name two, or set attack.omniscient = true"
            )
        if self.z is None and not hidden(silos, attackers):
            return f"attack.z unset is 0 where {attackers} of {silos} silos attack: set it, such as to 1.5"
        return None

    def forge(self, insight: Insight) -> Vector:
        """mean - z * deviation."""
        rows = insight.rows()
        z = hidden(insight.silos, insight.attackers) if self.z is None else self.z
        forged = rows.mean(axis=0) - z * np.sqrt(rows.var(axis=0))
        return np.asarray(forged, insight.own.dtype)


def hidden(silos: int, attackers: int) -> float:
    """The largest z at which enough honest silos are expected to be farther from the mean than the attackers.

    Of few silos, where half have to be on their side, it would be below 0, and is 0.
    """
    honest = silos - attackers
    supporters = silos // 2 + 1 - attackers
    part = (honest - supporters) / honest if honest > 0 else 0.5
    return max(0.0, NormalDist().inv_cdf(min(part, 1 - 1e-9))) if part > 0 else 0.0
