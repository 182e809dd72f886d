"""What a membership inference is: a score for each record from its losses, of the model and of shadow models.

An inference is one file of this folder: a final frozen dataclass whose fields have defaults. Scores decide by
a threshold; `roc.py` says what they are worth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Evidence:
    """What an attacker has of m records.

    Attributes:
        losses: cross entropies (m,) under the model that is attacked.
        shadow_losses: (k, m), of the same records under k models of the attacker's own, trained alike.
        shadow_members: (k, m), which records each of those was trained on.
        round_weights: (T, m), of each round's opened step, how much of each record is in it: see
            `candidate_weights`, on the records' gradients at the model that the round began with.
    """

    losses: Floats
    shadow_losses: Floats = field(default_factory=lambda: np.empty((0, 0)))
    shadow_members: Bools = field(default_factory=lambda: np.empty((0, 0), np.bool_))
    round_weights: Floats = field(default_factory=lambda: np.empty((0, 0)))


class MembershipInference(ABC):
    """An attack on a model."""

    paper: ClassVar[str]
    """Where it is from."""
    shadows: ClassVar[bool] = False
    """Whether it needs shadow models."""

    @abstractmethod
    def scores(self, evidence: Evidence) -> Floats:
        """(m,), the larger the surer that a record was in the training data.

        Raises ValueError, of one sentence, where a record is in no shadow model, or in all.
        """


def train_shadows(
    losses_after: Callable[[Bools], Floats], records: int, count: int, rng: np.random.Generator
) -> tuple[Floats, Bools]:
    """Losses (k, m) and members (k, m) of shadow models, in pairs that share no record.

    Args:
        losses_after: trains a model on the records of a mask (m,), as the attacked one was trained, and
            gives its losses on all of them, (m,).
        records: how many there are, m.
        count: how many models, k, an even number; each record is then in half of them.
        rng: which records are in which.
    """
    if count < 2 or count % 2:
        raise ValueError(f"{count} shadow models are no pairs, of which each record is in one model")
    losses, members = list[Floats](), list[Bools]()
    for _ in range(count // 2):
        chosen = np.zeros(records, np.bool_)
        chosen[rng.permutation(records)[: records // 2]] = True
        for mask in (chosen, ~chosen):
            losses.append(losses_after(mask))
            members.append(mask)
    return np.stack(losses), np.stack(members)


def both_sides(evidence: Evidence) -> None:
    """Raise ValueError where a record is in no shadow model, or in all of them."""
    inside = evidence.shadow_members.sum(axis=0) if len(evidence.shadow_members) else np.zeros(1)
    if not np.all((inside > 0) & (inside < len(evidence.shadow_members))):
        raise ValueError("a record is in no shadow model, or in all: train more, each on half of the records")
