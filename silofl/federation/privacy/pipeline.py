"""The way of one silo's vectors into a noisy sum: trained or sampled, clipped, rotated, rounded, noisy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from silofl.aggregation.base import Aggregator
from silofl.config import PrivacyConfig
from silofl.crypto.noise_keys import NoiseKeys
from silofl.errors import DivergedError
from silofl.federation.local_work import Fitted, RoundStart
from silofl.federation.privacy.clip_norm import ClipNorm
from silofl.federation.silo import Silo
from silofl.privacy.grid import Grid
from silofl.privacy.plan import Plan
from silofl.topologies.base import BUFFERS
from silofl.training.flat import as_array
from silofl.training.gradient_check import EXAMPLES
from silofl.training.private import PrivateSteps, StepNoise
from silofl.training.sampling import PoissonSampler
from silofl.transforms.base import Transform
from silofl.transforms.correlated import CorrelatedNoise, NoiseProcess
from silofl.transforms.integer_grid import IntegerGrid
from silofl.transforms.noise import identity
from silofl.transforms.rotation import Rotation
from silofl.types import Contribution, Vector
from silofl_kernels import CENTRED_VARIANCE, NoiseTable, Stream, discrete_gaussian, skellam

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
        steps: on the silo's single examples, where those are protected.
        note: takes what this silo alone may read.
        process: of this silo's noise, where that is correlated from round to round.

    Attributes:
        table: of the noise that each source adds; of correlated noise all but that around its centre.
    """

    def __init__(
        self,
        silo: Silo,
        plan: Plan,
        grid: Grid,
        keys: NoiseKeys,
        norm: ClipNorm,
        covered: tuple[str, ...],
        steps: PrivateSteps | None = None,
        note: Callable[[str], None] = lambda text: None,
        process: NoiseProcess | None = None,
    ) -> None:
        self._silo, self._plan, self._grid, self._keys = silo, plan, grid, keys
        self._norm, self._covered, self._private = norm, covered, steps
        self._note, self._process = note, process
        self._privacy: PrivacyConfig = plan.config
        variance = grid.share if process is None else grid.share - CENTRED_VARIANCE
        self.table: NoiseTable = TABLES[plan.config.mechanism](variance)
        self.context: tuple[bytes, ...] = (identity(self.table),)
        """What the noise of a round's sum is bound to besides the numbers.

        Where coins leave updates out, also a keyed hash of the update before its coin: what is told of zeros,
        in a round that is taken again, would else tell the coin."""

    def follow(self, steps: PrivateSteps | None) -> None:
        """Take steps on other records from now on."""
        self._private = steps

    def fit(self, start: RoundStart, attempt: int) -> Fitted:
        """What a silo brings to the sum: bounded; noisy where each silo protects itself alone.

        What is not finite counts as zero, and the silo alone is told: an error would tell it to all.
        """
        if self._privacy.samples:
            return self._noisy_steps(start, attempt) if self._plan.place.alone else self._sum(start, attempt)
        if self._privacy.sampled:
            return self._of_clients(start, attempt)
        fitted = self._trained(start)
        vectors = list(fitted.contribution.vectors.values())
        if not self._norm.clip(vectors):
            self._note(f"round {start.round_number}: the update is not finite, and counted as zero")
            self._silo.trainer.optimizer.forget()
        drawn, rate = self._takes_part(start.round_number, attempt), self._plan.participation
        if rate < 1:
            at = start.round_number, attempt
            trained = self._keys.fingerprint("trained", *at, np.concatenate(vectors))
            self.context = identity(self.table), trained
        for vector in vectors:
            np.multiply(vector, drawn, out=vector)  # as much work in either case
        if self._plan.place.alone:
            self._add_noise(vectors, start.round_number, attempt)
            for vector in vectors:
                np.divide(vector, rate, out=vector)  # as `divisor` does where noise is in the sum
        return fitted if drawn else replace(fitted, state=self._silo.strategy_state)

    def _takes_part(self, round_number: int, attempt: int) -> bool:
        """This silo's coin, which no other silo learns: whether its update counts.

        A silo trains in every round, and what does not count becomes zero, under the same noise and masks:
        neither how long it takes nor anything that leaves it tells the others. As the samples of records do,
        the coin depends on the silo's data, so that a copy of the run with other data has other ones.
        """
        rate = self._plan.participation
        if rate == 1:
            return True
        stream = self._keys.stream("participation", round_number, attempt, self._silo.data_digest())
        return bool(len(PoissonSampler(stream, 1, rate).draw(0)))

    def transforms(self) -> list[Transform]:
        """What the sum does to what `fit` gives, first to last; nothing where that is noisy."""
        if self._plan.place.alone:
            return []
        noise = self._noise()
        rotation = [Rotation(Stream("aes-128-ctr", ROTATION_KEY))] if self._plan.rotates else []
        return [*rotation, IntegerGrid(self._grid, self._keys), noise]

    def _noise(self) -> Transform:
        if self._process is not None:
            return CorrelatedNoise(self._process, self.table, self._keys)
        return self._plan.place.noise(self.table, self._keys)

    def divisor(self, inner: Aggregator) -> float:
        """What makes a mean of the sum: the samples, or the silos, that it expects to be drawn.

        A divisor that silos' coins do not decide (McMahan et al. 2018, "Learning Differentially Private
        Recurrent Language Models", section 2.2, the first estimator).
        """
        if self._privacy.sampled:
            return self._privacy.sample_rate * inner.summed_samples
        return self._plan.participation * len(inner.participants) / self._norm.stretch

    def _trained(self, start: RoundStart) -> Fitted:
        """The silo's update; zero where training did not stay finite."""
        try:
            return self._only_covered(self._silo.fit(start))
        except DivergedError as error:
            self._note(f"{error}; the update counted as zero")
        silo, model = self._silo, self._silo.model
        silo.trainer.optimizer.forget()
        size = {BUFFERS: model.size - model.trainable}
        vectors = {
            name: np.zeros(size.get(name, model.trainable), model.wire_dtype) for name in self._covered
        }
        return Fitted(Contribution(vectors), silo.strategy_state, math.nan, 0)

    def _only_covered(self, fitted: Fitted) -> Fitted:
        """Without scalars, other vectors, and a weight of the silo's own: they have no noise."""
        vectors = {name: fitted.contribution.vectors[name] for name in self._covered}
        return replace(fitted, contribution=Contribution(vectors))

    def _noisy_steps(self, start: RoundStart, attempt: int) -> Fitted:
        """Steps on clipped examples with noise; all that is brought is made of those.

        The loss has none: the strategy is given NaN for it, which no sum takes.
        """
        silo, number, noise = self._silo, start.round_number, StepNoise(self._grid, self.table)
        with self._on_examples(number) as private:
            silo.model.load_parts(start.shared["model"], start.buffers)
            result = silo.trainer.fit_privately(
                private, self._plan.steps, noise, number, attempt, silo.correction(start)
            )
        fitted = silo.contribution(silo.model.parameters, replace(result, loss=math.nan), start)
        return self._only_covered(replace(fitted, loss=result.loss))

    def _sum(self, start: RoundStart, attempt: int) -> Fitted:
        """The clipped gradients of a sample of records, added up, without noise.

        Valid until the silo trains again. The model shares no buffers.
        """
        silo = self._silo
        with self._on_examples(start.round_number) as private:
            silo.model.load(start.shared["model"])
            total, stats = private.sum(start.round_number, attempt)
        return Fitted(Contribution({"update": as_array(total)}), silo.strategy_state, stats.loss, 1)

    def _of_clients(self, start: RoundStart, attempt: int) -> Fitted:
        """The clipped updates of a sample of clients, added up; a noisy mean where the silo stands alone.

        Each client has a coin of its own in each round, which no other silo learns, as records have:
        independent of the data and alike, so that clients may be numbered anew where one joins or leaves.
        """
        silo, number, rate = self._silo, start.round_number, self._privacy.sample_rate
        clients = silo.clients
        assert clients is not None, "clients are protected"
        stream = self._keys.stream("sampling", number, attempt, silo.data_digest())
        drawn = PoissonSampler(stream, len(clients), rate).draw(0)
        with silo.errors_of(number):
            silo.model.load_parts(start.shared["model"], start.buffers)
            total, result, refused = clients.clipped_sum(
                drawn, number, silo.correction(start), self._norm.value
            )
        if refused:
            self._note(
                f"round {number}: the updates of {refused} clients are not finite, and counted as zero"
            )
        if self._plan.place.alone:
            self._add_noise([total], number, attempt)
            total /= rate * silo.counted
        return Fitted(Contribution({"update": total}), silo.strategy_state, result.loss, result.steps)

    @contextmanager
    def _on_examples(self, round_number: int) -> Iterator[PrivateSteps]:
        """For work on single examples: nothing of the model may change that has no noise."""
        assert self._private is not None, "examples are protected"
        with self._silo.errors_of(round_number):
            yield self._private
            self._silo.model.check(own=True, in_place=True)
            self._silo.refuse_moved()
        if self._private.refused:
            self._note(
                f"round {round_number}: the gradients of {self._private.refused} sampled "
                f"{'patients' if self._privacy.unit == 'patient' else 'records'} are not "
                "finite, and counted as zero"
            )

    def _add_noise(self, vectors: list[Vector], round_number: int, attempt: int) -> None:
        """Put a silo's whole noise on its clipped vectors, in place."""
        whole = np.concatenate(vectors)
        noise = StepNoise(self._grid, self.table, self.context)
        noise.add(torch.from_numpy(whole), 1.0, self._keys, (round_number, attempt, 0))
        ends = np.cumsum([len(vector) for vector in vectors])
        for vector, noisy in zip(vectors, np.split(whole, ends[:-1]), strict=True):
            vector[:] = noisy


def refuse_unprotectable(silo: Silo, config: PrivacyConfig) -> None:
    """Raise the ConfigError of a run on single examples, or of its first step, where there would be one."""
    if config.samples:
        gradients = silo.clipped_gradients(config)
        gradients.sum(np.arange(min(EXAMPLES, silo.samples)))
        gradients.close()
        with silo.errors_of(1):
            silo.model.check(own=True, in_place=True)
