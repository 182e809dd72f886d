"""Local training of which weights are there: scores in the place of parameters, masks drawn in each step."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from silofl.training.flat import FlatModel
from silofl.training.losses import Losses
from silofl.training.seeding import derive
from silofl.training.trainer import FitResult, LocalTrainer

DRAWS = 1
"""Tells a round's masks from its other random choices; silos that are threads have one global generator."""


@final
class MaskTraining:
    """Trains the scores of a network's weights, by the steps and the optimizer of [train].

    The model's parameters are the scores while the optimizer steps, and masked weights while gradients are
    taken.

    Args:
        trainer: of the silo's shared work.
        model: what it trains.
    """

    def __init__(self, trainer: LocalTrainer, model: FlatModel) -> None:
        self._trainer, self._model = trainer, model

    def fit(self, round_number: int, network: Tensor, probabilities: Tensor) -> FitResult:
        """Train from probabilities (P,), strictly between 0 and 1; the model's vector is left a drawn mask.

        Raises DivergedError where a loss is not finite.
        """
        order, losses, values = self._trainer.begin(round_number), Losses(), self._model.parameters
        draws = torch.Generator(values.device).manual_seed(derive(order.initial_seed(), DRAWS, 0))
        scores = torch.logit(probabilities)
        for batch in self._trainer.reads.stepped(order):
            kept = torch.sigmoid(scores)
            with torch.no_grad():
                values.copy_(network * torch.bernoulli(kept, generator=draws))
            gradient, loss = self._trainer.gradient_of(batch)
            found = losses.add(loss)
            if found is not None:
                raise self._trainer.diverged(round_number, f"loss {found.value} in step {found.step}", batch)
            with torch.no_grad():
                values.copy_(scores)
                self._trainer.step_along(gradient * network * kept * (1 - kept))
                scores = values.clone()
        found = losses.look()
        if found is not None:
            raise self._trainer.diverged(round_number, f"loss {found.value} in step {found.step}")
        with torch.no_grad():
            values.copy_(torch.bernoulli(torch.sigmoid(scores), generator=draws))
        return FitResult(losses.total / max(losses.steps, 1), losses.steps)
