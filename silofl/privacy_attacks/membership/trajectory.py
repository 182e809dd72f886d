"""What the steps of all rounds tell together, to those who see every round's model, as each silo does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from silofl.privacy_attacks.membership.base import Evidence, Floats, MembershipInference


@final
@dataclass(frozen=True)
class Trajectory(MembershipInference):
    """A passive participant that has the models of all rounds (Nasr et al. 2019, section III).

    The paper trains a network on gradients, losses and outputs; here the step of each round is explained by
    the records' gradients, by linear least squares (`candidate_weights`), and what each record has in the
    steps is added up. No shadow model is needed.
    """

    paper: ClassVar[str] = "Nasr et al. 2019"

    def scores(self, evidence: Evidence) -> Floats:
        """The sum of a record's weights over rounds."""
        if evidence.round_weights.shape[1:] != evidence.losses.shape or not len(evidence.round_weights):
            raise ValueError(
                "there is no weight of each record in each round's step, which this attack needs"
            )
        return np.asarray(evidence.round_weights.sum(axis=0))
