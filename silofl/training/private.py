"""DP-SGD of one silo: sampled, clipped, and, where the silo protects its records alone, noisy steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from silofl.privacy.grid import Grid
from silofl.training.clipped import ClippedGradients, ClippedStats
from silofl.training.flat import Correct, FlatModel, as_array
from silofl.training.sampling import PoissonSampler
from silofl.training.seeding import seed_everything
from silofl.transforms.base import SecretStreams, Slice
from silofl.transforms.integer_grid import IntegerGrid
from silofl.transforms.noise import SiloNoise
from silofl_kernels import NoiseTable, keystream


@dataclass(frozen=True)
class StepNoise:
    """The noise of one silo's own steps."""

    grid: Grid
    table: NoiseTable

    def add(self, total: Tensor, divisor: float, streams: SecretStreams, place: tuple[int, int, int]) -> None:
        """Put noise on a clipped sum (d,) and divide it; `place` is round, attempt and step.

        In float64 up to the rounding; what leaves here is a whole number of grid units.
        """
        round_number, attempt, step = place
        values = as_array(total).astype(np.float64)
        part, words = Slice(step * values.size, round_number, attempt), np.empty(values.size, np.uint32)
        grid, noise = IntegerGrid(self.grid, streams), SiloNoise(self.table, streams)
        noisy = grid.decode(noise.encode(grid.encode(values, part, words), part, words), part)
        total.copy_(torch.from_numpy(noisy / divisor))


@final
class PrivateSteps:
    """Poisson-sampled steps on clipped gradients (Abadi et al. 2016, algorithm 1).

    Args:
        gradients: of this silo's samples.
        model: the same that `gradients` has.
        samples: how many records this silo has.
        rate: with which each takes part in a step.
        streams: this silo's secret streams.
    """

    def __init__(
        self, gradients: ClippedGradients, model: FlatModel, samples: int, rate: float, streams: SecretStreams
    ) -> None:
        self._gradients, self._model, self._streams = gradients, model, streams
        self._samples, self._rate = samples, rate
        self._total = torch.empty_like(model.vector)

    def sum(self, round_number: int, attempt: int) -> tuple[Tensor, ClippedStats]:
        """The clipped sum (d,) of one sample of records, without noise; valid until the next call."""
        self.seed(round_number, attempt)
        return self._gradients.sum(self._sampler(round_number, attempt).draw(0), self._total)

    def train(
        self,
        optimizer: torch.optim.Optimizer,
        steps: int,
        noise: StepNoise,
        round_number: int,
        attempt: int,
        correct: Correct | None = None,
    ) -> float:
        """Take noisy steps from the model's values; the mean loss over all of their samples.

        `correct` sees gradients that have their noise, so that what it does costs no privacy.
        """
        self.seed(round_number, attempt)
        sampler, expected = self._sampler(round_number, attempt), self._rate * self._samples
        gradient = self._model.gradient_vector()
        loss, examples = 0.0, 0
        for step in range(steps):
            total, stats = self._gradients.sum(sampler.draw(step), gradient)
            noise.add(total, expected, self._streams, (round_number, attempt, step))
            if correct is not None:
                correct(gradient[: self._model.trainable], self._model.parameters)
            self._model.gradients_from(gradient)
            optimizer.step()
            loss, examples = loss + stats.loss * stats.examples, examples + stats.examples
        return loss / max(examples, 1)

    def seed(self, round_number: int, attempt: int) -> None:
        """Seed what the model draws, such as dropout: a mask that others knew would tell of who is there."""
        words = np.empty(8, np.uint8)
        keystream(self._streams.stream("training", round_number, attempt), words)
        seed_everything(int(words.view(np.int64)[0]) >> 1 & (1 << 62) - 1)

    def _sampler(self, round_number: int, attempt: int) -> PoissonSampler:
        stream = self._streams.stream("sampling", round_number, attempt)
        return PoissonSampler(stream, self._samples, self._rate)

    def close(self) -> None:
        """Take everything off the model."""
        self._gradients.close()


def steps_in(epochs: int | None, steps: int | None, rate: float) -> int:
    """How many steps [train] means: each sees `rate` of the records, so an epoch has 1 / rate of them."""
    return steps if steps is not None else max(1, round((epochs or 1) / rate))
