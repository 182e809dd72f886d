"""What an attack is: another update than a silo has learnt, or other data than it has.

An attack is one file of this folder: a final frozen dataclass whose fields are the keys of [attack]. It is a
rehearsal: `federation/forged_updates.py` has the silos of `attack.silos` carry it out in a run of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from silofl.constrained import NonNegativeInt
from silofl.types import Vector

Numbers = Annotated[tuple[NonNegativeInt, ...], Field(strict=False)]
"""Several numbers of silos, which a file has as a list."""


@dataclass(frozen=True)
class Attack:
    """An attack. The base does nothing wrong."""

    paper: ClassVar[str] = ""
    """Where it is from."""

    @property
    def active(self) -> bool:
        """Whether any silo attacks."""
        return False


@dataclass(frozen=True)
class Insight:
    """What an attacker knows as it makes its update.

    Attributes:
        own: what it has learnt itself, (d,).
        known: updates that it knows of, by silo, at least one: those of all attackers, which collude, before
            any of them was changed; or, with `omniscient`, those of all silos that do not attack.
        silos, attackers: how many silos there are, and how many of them attack.
        rng: its own, of the run's seed, its number and the round.
    """

    own: Vector
    known: Mapping[int, Vector]
    silos: int
    attackers: int
    rng: np.random.Generator

    def rows(self) -> NDArray[np.float64]:
        """The updates that it knows of (k, d)."""
        return np.stack([np.asarray(one, np.float64) for one in self.known.values()])


@dataclass(frozen=True)
class LiveAttack(Attack):
    """An attack by some silos, which know of each other."""

    silos: Numbers = ()
    """Numbers of the silos that attack."""
    omniscient: bool = False
    """Attackers know the updates of all other silos, as the worst case has it, in the place of their own
    honest ones, from which they estimate those."""

    colludes: ClassVar[bool] = False
    """Whether it makes use of updates that are not the attacker's own."""
    poisons: ClassVar[bool] = False
    """Whether it changes the attacker's training data."""

    @property
    def active(self) -> bool:
        """See `Attack`."""
        return True

    def refusal(self, silos: int) -> str | None:
        """Why it would do nothing among so many silos, naming key, value and remedy; else None."""
        return None

    def known(self, silo: int) -> bool:
        """Whether attackers know the updates of a silo."""
        return (silo in self.silos) != self.omniscient

    def forge(self, insight: Insight) -> Vector:
        """What is sent in the place of what was learnt, (d,); nothing that is given is changed."""
        return insight.own

    def poison(
        self, samples: NDArray[np.generic], labels: NDArray[np.generic], rng: np.random.Generator
    ) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        """Training samples (m, ...) and labels (m,) in the place of the attacker's, which are not changed.

        Raises ValueError, of one sentence, where that cannot be done to such data.
        """
        return samples, labels
