"""DP-SGD of one silo: sampled, clipped, and, where the silo protects its records alone, noisy steps."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from silofl.privacy.grid import Grid
from silofl.training.clipped import ClippedGradients, ClippedStats
from silofl.training.flat import Correct, FlatModel, as_array
from silofl.training.persons import Persons, Sample
from silofl.training.sampling import Groups, PoissonSampler
from silofl.training.seeding import seed_everything
from silofl.transforms.base import SecretStreams, Slice
from silofl.transforms.integer_grid import IntegerGrid
from silofl.transforms.noise import SiloNoise, identity
from silofl_kernels import NoiseTable, keystream


@dataclass(frozen=True)
class StepNoise:
    """The noise of one silo's own steps."""

    grid: Grid
    table: NoiseTable
    bound_to: tuple[bytes, ...] = ()
    """What it is bound to besides the numbers that it is put on."""

    def add(self, total: Tensor, divisor: float, streams: SecretStreams, place: tuple[int, int, int]) -> None:
        """Put noise on a clipped sum (d,) and divide it; `place` is round, attempt and step.

        In float64 up to the rounding; what leaves here is a whole number of grid units.
        """
        round_number, attempt, step = place
        values = as_array(total).astype(np.float64)
        part, words = Slice(step * values.size, round_number, attempt), np.empty(values.size, np.uint32)
        grid, noise = IntegerGrid(self.grid, streams), SiloNoise(self.table, streams)
        grid.encode(values, part, words)
        context = identity(self.table), struct.pack(">Q", part.position), *self.bound_to
        part = replace(part, fingerprint=streams.fingerprint("step", round_number, attempt, words, *context))
        noisy = grid.decode(noise.encode(words, part, words), part)
        total.copy_(torch.from_numpy(noisy / divisor))


@final
class PrivateSteps:
    """Poisson-sampled steps on clipped gradients (Abadi et al. 2016, algorithm 1).

    Args:
        gradients: of this silo's samples.
        model: the same that `gradients` has.
        persons: whose its records are; where records are protected one by one, each is another's.
        rate: with which each person takes part in a step.
        streams: this silo's secret streams.
        data: a digest of its records and of whose they are, which decides, too, who takes part: in a copy
            of the run that goes on with other records other ones do.
        counted: as how many persons these count where a sum becomes a mean; as all there are unless said.
        groups: of persons that take turns in `sum`, each with as many times the rate in its own rounds.
    """

    def __init__(
        self,
        gradients: ClippedGradients,
        model: FlatModel,
        persons: Persons,
        rate: float,
        streams: SecretStreams,
        data: bytes,
        counted: int | None = None,
        groups: Groups | None = None,
    ) -> None:
        self._gradients, self._model, self._streams = gradients, model, streams
        self._persons, self._rate, self._data, self._groups = persons, rate, data, groups
        self._expected = rate * (len(persons) if counted is None else counted)
        self._total = torch.empty_like(model.vector)
        self.refused = 0
        """How many persons of the last sum, or steps, counted as zero: their gradients are not finite."""

    def sum(self, round_number: int, attempt: int) -> tuple[Tensor, ClippedStats]:
        """The clipped sum (d,) of one sample of persons, without noise; valid until the next call."""
        self.seed(round_number, attempt)
        total, stats = self._gradients.sum(self._samples(round_number, attempt)(0), self._total)
        self.refused = stats.refused
        return total, stats

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
        sample = self._samples(round_number, attempt)
        gradient = self._model.gradient_vector()
        loss, examples, self.refused = 0.0, 0, 0
        for step in range(steps):
            total, stats = self._gradients.sum(sample(step), gradient)
            noise.add(total, self._expected, self._streams, (round_number, attempt, step))
            if correct is not None:
                correct(gradient[: self._model.trainable], self._model.parameters)
            self._model.gradients_from(gradient)
            optimizer.step()
            self.refused += stats.refused
            loss, examples = loss + stats.loss * stats.examples, examples + stats.examples
        return loss / max(examples, 1)

    def seed(self, round_number: int, attempt: int) -> None:
        """Seed what the model draws, such as dropout: a mask that others knew would tell of who is there."""
        words = np.empty(8, np.uint8)
        keystream(self._streams.stream("training", round_number, attempt), words)
        seed_everything(int(words.view(np.int64)[0]) >> 1 & (1 << 62) - 1)

    def _samples(self, round_number: int, attempt: int) -> Callable[[int], Sample]:
        """What takes part in each step."""
        place, groups = (round_number, attempt, self._data), self._groups
        rate = self._rate if groups is None else min(1.0, self._rate * groups.count)
        sampler = PoissonSampler(self._streams.stream("sampling", *place), len(self._persons), rate)
        draws = self._streams.stream("records of persons", *place)

        def sample(step: int) -> Sample:
            drawn = sampler.draw(step)
            who = drawn if groups is None else groups.in_turn(drawn, round_number)
            return self._persons.sample(who, step, draws)

        return sample

    def close(self) -> None:
        """Take everything off the model."""
        self._gradients.close()


def steps_in(epochs: int | None, steps: int | None, rate: float) -> int:
    """How many steps [train] means: each sees `rate` of the records, so an epoch has 1 / rate of them."""
    return steps if steps is not None else max(1, round((epochs or 1) / rate))
