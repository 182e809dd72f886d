"""Fine-tuning: the shared model, trained some more by each silo for itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from silofl.constrained import PositiveFloat, PositiveInt
from silofl.personal.base import Personal, Solver
from silofl.types import Vector


@final
@dataclass(frozen=True)
class FineTuning(Personal):
    """Fine-tuning (the "FedAvg + fine-tuning" of Cheng et al. 2021, "Fine-tuning is fine in FL").

    The personal model is the global one after some epochs on the silo's own samples: nothing is kept from
    round to round, and the shared model is as without it.
    """

    epochs: PositiveInt = 1
    """Of fine-tuning; steps where `train.full_batch` is set."""
    lr: PositiveFloat | None = None
    """Learning rate of fine-tuning; `train.lr` when unset."""

    effect = "beside"
    adapts = True
    paper = "Cheng et al. 2021"

    def adapt(self, solver: Solver, state: Mapping[str, Vector]) -> None:
        """See `Personal`."""
        solver.train_alone(lr=self.lr, epochs=self.epochs)
