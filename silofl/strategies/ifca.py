"""IFCA: several shared models, of which each silo trains the one that suits its records best."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
from pydantic import Field

from silofl.constrained import NonNegativeFloat
from silofl.strategies.base import LocalRound, State, Strategy
from silofl.types import Contribution, Total, Vector


@final
@dataclass(frozen=True)
class IFCA(Strategy):
    """IFCA (Ghosh et al. 2020, "An Efficient Framework for Clustered FL", algorithm 1, model averaging).

    In each round a silo takes the model whose loss on its training records is lowest, which costs a pass over
    them for each model, and trains it; a model becomes the mean of what was trained of it, weighted by
    records, and stays as it was where no silo took it. A silo ends with the model that it would take next.
    Which one a silo takes is not told: it sends changes of all models, zeros of the others. Open are the
    part of all records behind each model, and each model: what one silo alone has trained is that silo's.
    """

    clusters: Annotated[int, Field(ge=2, le=64)] = 2
    """How many models there are, at most one for each silo."""
    start_noise: NonNegativeFloat = 0.0
    """Models start as the task draws them under different seeds, with Gaussian noise of this deviation on all
    but the first: for tasks whose model is always drawn alike."""

    shared = ("model", "model-2")
    models = shared
    sends = {"update": "samples", "update-2": "samples"}  # noqa: RUF012 - the base declares it
    scalars = ("taken", "taken-2")

    def __post_init__(self) -> None:
        """As many vectors and numbers as there are clusters, in place of the class's, which are of two."""
        for name in ("shared", "models"):
            object.__setattr__(self, name, self._numbered("model"))
        object.__setattr__(self, "sends", dict.fromkeys(self._numbered("update"), "samples"))
        object.__setattr__(self, "scalars", self._numbered("taken"))

    def _numbered(self, name: str) -> tuple[str, ...]:
        return (name, *(f"{name}-{k}" for k in range(2, self.clusters + 1)))

    def start(self, drawn: Vector, rng: np.random.Generator) -> Vector:
        """With noise."""
        if not self.start_noise:
            return drawn
        return drawn + (self.start_noise * rng.standard_normal(len(drawn))).astype(drawn.dtype)

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """model_j += sum over S_j of n_i (y_i - model_j) / sum over S_j of n_i, for S_j who took model_j."""
        for model, update, taken in zip(self.models, self.sends, self.scalars, strict=True):
            part = total.scalars[taken]
            if part > 0:
                shared[model][...] += total.mean[update] * shared[model].dtype.type(1 / part)
        return state

    def contribute(
        self, trained: Vector, steps: int, loss: float, local: LocalRound
    ) -> tuple[Contribution, State]:
        """The change of the model that was taken, and 1; zeros of all others."""
        trained -= local.shared[local.chosen]
        took = [name == local.chosen for name in self.models]
        vectors = {
            name: trained if mine else np.zeros_like(trained)
            for name, mine in zip(self.sends, took, strict=True)
        }
        return Contribution(vectors, dict(zip(self.scalars, map(float, took), strict=True))), {}
