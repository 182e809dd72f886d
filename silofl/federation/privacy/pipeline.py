"""The way of one silo's vectors into a noisy sum: trained or sampled, clipped, rotated, rounded, noisy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from silofl.aggregation.base import Aggregator
from silofl.config import PrivacyConfig
from silofl.crypto.noise_keys import NoiseKeys
from silofl.federation.local_work import Fitted, RoundStart
from silofl.federation.privacy.clip_norm import ClipNorm
from silofl.federation.silo import Silo
from silofl.privacy.grid import Grid
from silofl.privacy.plan import Plan
from silofl.training.private import StepNoise
from silofl.transforms.base import Transform
from silofl.transforms.integer_grid import IntegerGrid
from silofl.transforms.rotation import Rotation
from silofl.types import Contribution, Vector
from silofl_kernels import NoiseTable, Stream, discrete_gaussian, skellam

TABLES = {"discrete-gaussian": discrete_gaussian, "skellam": skellam}
ROTATION_KEY = b"silofl rotations"  # 16 bytes; a rotation is no secret


class Pipeline:
    """All that is done to a silo's vectors, first by `fit` and then by `transforms`, up to the sum.

    Args:
        silo: trains.
        plan: how much noise a run has, and where.
        grid: the integers on which noise is exact.
        keys: of this silo's coins, samples and noise.
        norm: to which updates are clipped.
        covered: names of the vectors that noise covers; nothing else leaves the silo.
    """

    def __init__(
        self, silo: Silo, plan: Plan, grid: Grid, keys: NoiseKeys, norm: ClipNorm, covered: tuple[str, ...]
    ) -> None:
        self._silo, self._plan, self._grid, self._keys = silo, plan, grid, keys
        self._norm, self._covered = norm, covered
        self._privacy: PrivacyConfig = plan.config
        self._table: NoiseTable = TABLES[plan.config.mechanism](grid.share)

    def fit(self, start: RoundStart, attempt: int) -> Fitted:
        """What a silo brings to the sum: bounded; noisy where each silo protects itself alone.

        Raises:
            TrainingError: values are not finite.
        """
        if self._privacy.unit == "example":
            return self._noisy_steps(start, attempt) if self._plan.place.alone else self._sum(start, attempt)
        fitted = self._only_covered(self._silo.fit(start))
        vectors = list(fitted.contribution.vectors.values())
        if not self._norm.clip(vectors):
            raise self._silo.diverged(start.round_number)
        if self._plan.place.alone:
            self._add_noise(vectors, start.round_number, attempt)
        return fitted

    def transforms(self) -> list[Transform]:
        """What the sum does to what `fit` gives, first to last; nothing where that is noisy."""
        noise = self._plan.place.noise(self._table, self._keys)
        if noise is None:
            return []
        rotation = [Rotation(Stream("aes-128-ctr", ROTATION_KEY))] if self._plan.rotates else []
        return [*rotation, IntegerGrid(self._grid, self._keys), noise]

    def divisor(self, inner: Aggregator) -> float:
        """What makes a mean of the sum: the samples that a step expects, or the silos."""
        if self._privacy.unit == "example":
            return self._privacy.sample_rate * inner.summed_samples
        return len(inner.participants) / self._norm.stretch

    def _only_covered(self, fitted: Fitted) -> Fitted:
        """Without scalars, other vectors, and a weight of the silo's own: they have no noise."""
        vectors = {name: fitted.contribution.vectors[name] for name in self._covered}
        return replace(fitted, contribution=Contribution(vectors))

    def _noisy_steps(self, start: RoundStart, attempt: int) -> Fitted:
        """Steps on clipped examples with noise; all that is brought is made of those."""
        noise = StepNoise(self._grid, self._table)
        return self._only_covered(self._silo.fit_privately(start, self._plan.steps, noise, attempt))

    def _sum(self, start: RoundStart, attempt: int) -> Fitted:
        """The clipped gradients of a sample of records, added up. Models with float buffers are refused."""
        total, result = self._silo.clipped_sum(start.shared["model"], start.round_number, attempt)
        return Fitted(Contribution({"update": total}), self._silo.strategy_state, result.loss, result.steps)

    def _add_noise(self, vectors: list[Vector], round_number: int, attempt: int) -> None:
        """Put a silo's whole noise on its clipped vectors, in place."""
        whole = np.concatenate(vectors)
        noise = StepNoise(self._grid, self._table)
        noise.add(torch.from_numpy(whole), 1.0, self._keys, (round_number, attempt, 0))
        ends = np.cumsum([len(vector) for vector in vectors])
        for vector, noisy in zip(vectors, np.split(whole, ends[:-1]), strict=True):
            vector[:] = noisy
