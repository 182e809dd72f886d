"""Differential privacy of one rank's part in a run: what its silo shows, and what that costs."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from silofl.aggregation.base import Aggregator, WordAggregator
from silofl.aggregation.noisy import Noise, NoisySum
from silofl.comm.collective_errors import allgather_object, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.crypto.key_file import silo_key
from silofl.crypto.noise_keys import NoiseKeys, new_nonce
from silofl.federation.privacy import guarantee
from silofl.federation.privacy.budget import PrivacyBudget
from silofl.federation.privacy.release_log import ReleaseLog
from silofl.federation.silo import Silo
from silofl.privacy.clipping import clip
from silofl.privacy.plan import COUNT_SENSITIVITY, COUNT_UNIT, Plan, method_for
from silofl.training.private import StepNoise
from silofl.training.trainer import FitResult
from silofl.types import Update
from silofl_kernels import Stream, discrete_gaussian, draw_noise, skellam

Vector = NDArray[np.floating[Any]]
TABLES = {"discrete-gaussian": discrete_gaussian, "skellam": skellam}
MOST_STRETCH = 1e6
"""How far the clipping norm may move from where it began, as a factor."""
ROTATION_KEY = b"silofl rotations"  # 16 bytes; a rotation is no secret


@dataclass
class PrivacyParameters:
    """What a run keeps of its privacy from start to end; JSON, and no secret."""

    nonce: str
    noise_multiplier: float
    clip_norm: float


class PrivacyEngine:
    """Clips, adds noise, and counts. Made once for a run; `wrap` whenever silos come or go."""

    def __init__(self, group: ElasticGroup, config: Config, silo: Silo, path: Path) -> None:
        self._group, self._config, self._silo = group, config, silo
        self._own = silo_key(config.checkpoint.key_file, group.silo_id)
        folder = path / f"silo-{group.silo_id:04d}"
        log = ReleaseLog(folder / "privacy.jsonl")
        self.budget = PrivacyBudget(group, config.privacy, method_for(config.privacy), log)
        self._parameters = PrivacyParameters(new_nonce().hex(), 0.0, config.privacy.clip_norm)
        self._plan: Plan
        self._inner: WordAggregator
        self._silos: int
        self._keys: NoiseKeys
        self._noise: StepNoise
        self._within = True
        """Whether this silo's last update was within the clipping norm."""
        self._shown: tuple[int, ...] = ()
        self._failures = 0
        self._before: tuple[int, dict[str, Any]] | None = None
        """A round that may be taken twice, and what the silo had before it."""
        self._use_nonce()

    def _use_nonce(self) -> None:
        self._keys = NoiseKeys(self._own, bytes.fromhex(self._parameters.nonce), self._group.silo_id)
        self._silo.protect(self._config.privacy, self._keys)

    def wrap(self, inner: WordAggregator, silos: int) -> Aggregator:
        """The aggregator whose sums are noisy enough among the silos that there are; collective."""
        self._inner, self._silos = inner, silos
        self._plan = guarantee.plan_for(
            self._config, self._silo.model.size, inner.summed_weight, len(inner.shards.members), silos
        )
        if not self._parameters.noise_multiplier:
            self._parameters.noise_multiplier = self._agreed_multiplier()
        grid = self._plan.grid(self._parameters.noise_multiplier)
        self._noise = StepNoise(grid, TABLES[self._config.privacy.mechanism](grid.share))
        plan = self._plan
        self.budget.price = lambda survivors: plan.of_round(grid, survivors)
        if self._config.privacy.place == "local":
            return inner
        noise = Noise(grid, self._noise.table, self._config.privacy.place == "central", self._rotation())
        return NoisySum(inner, noise, self._keys, self.budget, self._divisor)

    def _agreed_multiplier(self) -> float:
        """The leading rank's: the last bits of a calibration may differ from processor to processor."""
        plan, group = self._plan, self._group

        def agree() -> float:
            own = 0.0
            with raise_on_all_ranks(group.comm):
                if group.comm.rank == 0:
                    own = plan.noise_multiplier()
            return float(allgather_object(group.comm, own)[0])

        return group.step(agree)

    def _rotation(self) -> Stream | None:
        return Stream("aes-128-ctr", ROTATION_KEY) if self._plan.rotates else None

    def _divisor(self, inner: WordAggregator) -> float:
        """What makes a mean of the sum: the samples that a step expects, or the silos."""
        if self._config.privacy.unit == "example":
            return self._config.privacy.sample_rate * inner.summed_weight
        return len(inner.participants) / self._stretch

    @property
    def _stretch(self) -> float:
        """The clipping norm over the one that the grid is made for, to which updates are scaled."""
        return self._parameters.clip_norm / self._config.privacy.clip_norm

    def fit(self, global_vector: Vector, round_number: int, local: str) -> tuple[Update, FitResult]:
        """As `Silo.fit`: clipped, and noisy where each silo protects itself alone."""
        if self._group.comm.rank == 0:  # who tells
            self.budget.foresee(round_number)
        if self._config.privacy.place != "local":
            self._begin_afresh(round_number)
            return self._clipped(global_vector, round_number, local)
        while True:
            self._begin_afresh(round_number)
            attempt = self.budget.attempt(round_number)
            update, result = self._noisy(global_vector, round_number, attempt, local)
            tag = self._keys.tag(round_number, attempt, update)
            if self.budget.repeats_alone(round_number, attempt, tag):
                self.budget.note(round_number, attempt, tag, self._inner.shards.members)
                return update, result
            self.budget.retake(round_number)

    def _begin_afresh(self, round_number: int) -> None:
        """Give the silo back what it had before a round that it takes again.

        What an optimizer keeps of steps that are not shown has noise that was shown with other steps.
        """
        if self._before is not None and self._before[0] == round_number:
            self._silo.restore(deepcopy(self._before[1]))
        elif self.budget.was_begun(round_number):
            self._before = round_number, deepcopy(self._silo.state())

    def _clipped(self, global_vector: Vector, round_number: int, local: str) -> tuple[Update, FitResult]:
        if self._config.privacy.unit == "example":
            return self._silo.clipped_sum(global_vector, round_number, self.budget.attempt(round_number))
        update, result = self._silo.fit(global_vector, round_number, local)
        self._within = clip(update, self._parameters.clip_norm) <= self._parameters.clip_norm
        update /= self._stretch
        return update, result

    @property
    def clip_norm(self) -> float | None:
        """The clipping norm of the next round, where it changes from round to round."""
        return None if self._config.privacy.clip_quantile is None else self._parameters.clip_norm

    def account(self, aggregator: Aggregator, round_number: int) -> None:
        """Count what the round's sum has told; collective.

        Where each silo protects itself alone, of all silos that were there: the others may have seen a part.
        """
        alone = self._config.privacy.place == "local"
        self._shown = self._inner.shards.members if alone else aggregator.participants
        self._failures = len(self._group.failures)
        self.budget.record(round_number, self._shown)

    def complete(self, aggregator: Aggregator, round_number: int) -> None:
        """After the round's step; collective. Those who served the sum have added their noise by then.

        When one of them was lost meanwhile, another added noise of its own to the same slice.
        """
        if self._config.privacy.place == "central":
            group = self._group
            again = max(
                group.step(lambda: allgather_object(group.comm, len(group.failures) - self._failures))
            )
            for _ in range(again):
                self.budget.add(self.budget.price(len(self._shown)), self._shown)
        if self._config.privacy.clip_quantile is not None:
            self._adapt(self._config.privacy.clip_quantile, aggregator, round_number)

    def _adapt(self, quantile: float, aggregator: Aggregator, round_number: int) -> None:
        """Move the clipping norm towards its quantile by a noisy count; collective.

        Andrew et al. 2021, algorithm 1, with learning rate 0.2. A count over fewer silos has less noise: it
        is counted beside the one that was planned.
        """
        stream = self._keys.stream("count", round_number, self.budget.attempt(round_number))
        noise = np.zeros(1, np.int32)
        draw_noise(noise, TABLES[self._config.privacy.mechanism](self._plan.count_share), stream)
        own = (COUNT_SENSITIVITY if self._within else -COUNT_SENSITIVITY) + float(noise[0])
        total, silos = aggregator.sum_scalars(np.array([own, 1.0]))
        if np.isnan(total):  # somebody saw it, over all who are left at least
            self.budget.add({self._plan.of_count(len(self._group.agreed_members())): 1}, self._shown)
        else:
            if round(silos) < len(self._shown):
                self.budget.add({self._plan.of_count(round(silos)): 1}, self._shown)
            within = min(max(total / silos / COUNT_UNIT + 0.5, 0.0), 1.0)
            first = self._config.privacy.clip_norm
            norm = self._parameters.clip_norm * math.exp(-0.2 * (within - quantile))
            self._parameters.clip_norm = min(max(norm, first / MOST_STRETCH), first * MOST_STRETCH)

    def _noisy(
        self, global_vector: Vector, round_number: int, attempt: int, local: str
    ) -> tuple[Update, FitResult]:
        place = (round_number, attempt)
        if self._config.privacy.unit == "example":
            return self._silo.fit_privately(global_vector, self._plan.steps, self._noise, *place)
        update, result = self._clipped(global_vector, round_number, local)
        self._noise.add(torch.from_numpy(update), 1.0, self._keys, (*place, 0))
        return update, result

    def affordable(self) -> int:
        """How many more rounds stay within `privacy.max_epsilon`, up to 2."""
        return next((rounds for rounds in (2, 1) if self.budget.affords(rounds)), 0)

    def begin(self, committed: int) -> list[str]:
        """Take up what a killed run may have shown behind round `committed`; notices. Collective."""
        self.budget.begin(committed)
        return guarantee.notes(self._plan, self._parameters.noise_multiplier)

    @property
    def description(self) -> str:
        """What is promised, in a few words."""
        return guarantee.describe(self._plan, self._parameters.noise_multiplier)

    def state(self) -> dict[str, Any]:
        """For this silo's checkpoint."""
        return {"parameters": asdict(self._parameters), "ledger": self.budget.state()}

    def restore(self, state: dict[str, Any] | None, *, member: bool) -> Aggregator:
        """Take up a `state()` where this silo has one; the aggregator that goes with it. Collective.

        What all share is taken from a silo that was a `member` of the round that was committed.
        """
        if state is not None:
            self._own_terms(state)
        mine = state if member else None
        every = self._group.step(lambda: allgather_object(self._group.comm, mine))
        whole = next(state for state in every if state is not None)
        self._share(whole)
        fitted = self.wrap(self._inner, self._silos)
        guarantee.refuse_longer(self._plan, self._parameters.noise_multiplier)
        return fitted

    def _own_terms(self, state: dict[str, Any]) -> None:
        self._parameters = PrivacyParameters(**state["parameters"])
        self._use_nonce()

    def _share(self, state: dict[str, Any]) -> None:
        """Take up all of another silo's `state()` but what is that silo's own."""
        self._parameters = PrivacyParameters(**state["parameters"] | {"nonce": self._parameters.nonce})
        self.budget.restore(state["ledger"])

    def rejoin_state(self) -> dict[str, Any]:
        """What a silo that comes back needs of the others; JSON."""
        return self.state() | {"budget": self.budget.rejoin_state()}

    def come_back(self, rejoin_state: dict[str, Any]) -> None:
        """Go on with the others' `rejoin_state()`, and with noise that this silo never had before."""
        self._share(rejoin_state)
        self.budget.come_back(rejoin_state["budget"])
