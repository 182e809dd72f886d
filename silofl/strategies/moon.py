"""MOON: silos whose representations are drawn to the global model's, and away from their own of before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from silofl.constrained import NonNegativeFloat, Temperature
from silofl.strategies.base import LocalRound, State, Strategy, Values
from silofl.types import Contribution, Vector


@final
@dataclass(frozen=True)
class Moon(Strategy):
    """MOON (Li, He, Song 2021, "Model-Contrastive Federated Learning", algorithm 1).

    A silo minimizes loss + mu * contrast, the mean over a batch of
    -log(exp(sim(z, z_glob) / tau) / (exp(sim(z, z_glob) / tau) + exp(sim(z, z_prev) / tau))),
    where z represents a sample: what `layer` puts out in the model that is trained, in the shared model and
    in the silo's own of the round before, and sim is their cosine. The latter two have the shared model's
    buffers. A silo without a round before takes the shared model for its own, and the term is constant.
    """

    layer: str = ""
    """The module of the task's model, by name, whose output represents a sample: a projection head, or what
    lies before the last layer. A run without it is refused, and told which there are."""
    mu: NonNegativeFloat = 1.0
    """Weight of the contrast; 0 is FedAvg. The paper takes 0.1 to 10."""
    temperature: Temperature = 0.5
    """tau, at least 0.05; the paper takes 0.5."""

    def compared_layer(self) -> str:
        """`layer`."""
        return self.layer

    def references(self, local: LocalRound) -> Sequence[Values]:
        """The shared model, and this silo's of before."""
        model, previous = local.shared["model"], local.state["previous"]
        return model, model if np.isnan(previous).any() else previous

    def penalty(self, output: Values, others: Sequence[Values]) -> Values:
        """mu * mean(log(1 + exp((sim(z, z_prev) - sim(z, z_glob)) / tau))), which is the contrast."""
        by_model, by_previous = (_cosine(output, other) for other in others)
        logits = (by_previous - by_model) / self.temperature
        return logits.exp().log1p().mean() * self.mu

    def local_init(self, size: int, dtype: np.dtype[Any]) -> State:
        """NaN: there was no round before."""
        return {"previous": np.full(size, np.nan, dtype)}

    def contribute(
        self, trained: Vector, steps: int, loss: float, local: LocalRound
    ) -> tuple[Contribution, State]:
        """The change; what was trained is kept."""
        previous = trained.copy()
        trained -= local.shared["model"]
        return Contribution({"update": trained}), {"previous": previous}


SMALLEST = 1e-8
"""What a norm counts as at least, as in torch's cosine similarity."""


def _cosine(a: Values, b: Values) -> Values:
    """Of rows, (m,), of torch tensors (m, r)."""
    norms = a.norm(dim=1).clamp(min=SMALLEST) * b.norm(dim=1).clamp(min=SMALLEST)
    return (a * b).sum(1) / norms
