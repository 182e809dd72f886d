"""What a rule of pruning is: which weights of the global model are left, as rounds go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from silofl.constrained import Fraction, Names, NonNegativeInt, PositiveInt
from silofl.types import Mask, Vector


@dataclass(frozen=True)
class Weights:
    """One tensor of real values among the parameters.

    Attributes:
        name: as in the model.
        shape: of at least two dimensions where it may be pruned.
        place: of its values among the parameters.
    """

    name: str
    shape: tuple[int, ...]
    place: slice

    @property
    def size(self) -> int:
        """How many values it has."""
        return int(self.place.stop - self.place.start)


@dataclass(frozen=True)
class PruningRule:
    """A rule of pruning. The base prunes nothing."""

    paper: ClassVar[str] = ""
    """Where it is from."""

    @property
    def active(self) -> bool:
        """Whether anything is ever pruned."""
        return False


@dataclass(frozen=True)
class ScheduledRule(PruningRule, ABC):
    """A rule by which fewer weights are left round by round: what is pruned once stays so.

    What is left is cubic in the rounds (Zhu & Gupta 2017, "To Prune, or Not to Prune", section 3). A mask is
    made from the global model alone, so that all silos make the same one.
    """

    density: Fraction = 0.1
    """Which part of the weights that may be pruned is left at the end."""
    begin: NonNegativeInt = 0
    """The last round after which all weights are left."""
    end: PositiveInt = 10
    """The round after which `density` is reached."""
    every: PositiveInt = 1
    """Rounds between two times at which weights are pruned; the aggregator is made anew at each."""
    keep: Names = ()
    """Patterns (fnmatch) of the names of tensors that are never pruned, such as "head.*"."""

    @property
    def active(self) -> bool:
        """See `PruningRule`."""
        return True

    def due(self, round_number: int) -> bool:
        """Whether weights are pruned after a round."""
        if self.begin < round_number < self.end:
            return (round_number - self.begin) % self.every == 0
        return round_number == self.end

    def density_after(self, round_number: int) -> float:
        """Which part of the weights is meant to be left after a round."""
        if round_number >= self.end:
            return self.density
        if round_number <= self.begin:
            return 1.0
        steps = (round_number - self.begin) // self.every
        left = 1.0 - steps * self.every / (self.end - self.begin)
        return self.density + (1.0 - self.density) * left**3

    def prunable(self, weights: Sequence[Weights]) -> list[Weights]:
        """Those that may be pruned, in their order: matrices and tensors of more dimensions."""
        return [
            one
            for one in weights
            if len(one.shape) > 1 and one.size and not any(fnmatchcase(one.name, name) for name in self.keep)
        ]

    def refusal(self, weights: Sequence[Weights]) -> str | None:
        """Why a model of these tensors cannot be pruned so far, with the numbers; None where it can."""
        for pattern in self.keep:
            if not any(fnmatchcase(one.name, pattern) for one in weights):
                names = ", ".join(one.name for one in weights)
                return f'prune.keep = "{pattern}" names no tensor of the model, which has {names}: mend it'
        chosen = self.prunable(weights)
        if not chosen:
            return (
                "[prune] finds nothing to prune: the model has no tensor of two dimensions that it does not "
                "keep; remove [prune], or name fewer in prune.keep"
            )
        return self.too_few(chosen)

    @abstractmethod
    def too_few(self, chosen: Sequence[Weights]) -> str | None:
        """Which of the tensors would be left nothing, with the numbers and what to do; None for none."""

    @abstractmethod
    def keep_largest(self, values: Vector, before: Mask, chosen: Sequence[Weights], density: float) -> None:
        """Take out of `before` (P,) what is pruned of `chosen` tensors of parameters (P,)."""

    def kept(self, values: Vector, before: Mask, weights: Sequence[Weights], round_number: int) -> Mask:
        """The mask (P,) after a round that left the model `values` (P,): a part of the one `before`."""
        mask = before.copy()
        self.keep_largest(values, mask, self.prunable(weights), self.density_after(round_number))
        return mask


def largest(scores: NDArray[np.float64], count: int) -> Mask:
    """The `count` largest of scores (k,), of equal ones the first; NaN is the largest of all."""
    chosen = np.zeros(len(scores), np.bool_)
    if count >= len(scores):
        return ~chosen
    if count > 0:
        scores = np.where(np.isnan(scores), np.inf, scores)
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        chosen |= scores > least
        chosen[np.flatnonzero(scores == least)[: count - int(chosen.sum())]] = True
    return chosen


def share(density: float, count: int) -> int:
    """How many of `count` are left at a density."""
    return round(density * count)
