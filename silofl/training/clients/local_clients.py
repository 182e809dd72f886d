"""Local work of a silo's clients: each trains by itself from the global model; their updates are added up.

One client's update at a time is in memory, or as many as `StackedClients` takes at once, however many there
are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silofl.config import TrainConfig
from silofl.errors import DivergedError
from silofl.privacy.clipping import clip
from silofl.tasks.base import Task
from silofl.tasks.user_code import UserCode
from silofl.training.attributes import Attributes
from silofl.training.batches import Batches
from silofl.training.clients.client_draws import drawn_clients
from silofl.training.clients.client_split import ClientSplit
from silofl.training.clients.stacked_clients import Job, StackedClients, unfit
from silofl.training.clients.stacked_trial import KEPT, StackedTrial, is_stacked
from silofl.training.data_digest import records_digest
from silofl.training.flat import Correct, FlatModel, as_array
from silofl.training.schedules import RoundSchedule
from silofl.training.seeding import derive
from silofl.training.trainer import FitResult, LocalTrainer
from silofl.training.trial import kept
from silofl.types import Vector

Clients = NDArray[np.int64]


class Learnt(NamedTuple):
    """What one client has learnt."""

    client: int
    change: Tensor
    """(d,) of the values that it began with; valid until the next client's."""
    result: FitResult


@final
class LocalClients:
    """A silo's clients at work.

    Args:
        task, model, train: of the silo.
        config: [train].
        split: whose the silo's training records are.
        seed, silo: of the run, and the silo's number.
        code: calls the task.
        schedule: of the rates.
        per_round: how many are drawn in a round; None: all.
        by_samples: whether a mean is weighted by how many records clients have.
        trainer: of the silo, which knows what is pruned.
        attributes: of model and task.
        isolated: whether nothing that one client leaves in them may be there for another.

    Attributes:
        why_alone: why clients train one after the other; empty where they train together. See `choose`.
    """

    def __init__(
        self,
        task: Task,
        model: FlatModel,
        train: Batches,
        config: TrainConfig,
        split: ClientSplit,
        *,
        seed: int,
        silo: int,
        code: UserCode,
        schedule: RoundSchedule,
        per_round: int | None,
        by_samples: bool,
        trainer: LocalTrainer,
        attributes: Attributes,
        isolated: bool = False,
    ) -> None:
        self._task, self._model, self._train, self._config = task, model, train, config
        self._split, self._seed, self._silo, self._code = split, seed, silo, code
        self._schedule, self._per_round, self._by_samples = schedule, per_round, by_samples
        self._trainer, self._attributes, self._isolated = trainer, attributes, isolated
        self._own = model.own_state()
        self._seeds: dict[int, int] = {}
        self._stacked = StackedClients(task, model, train, schedule, code)
        self.why_alone = unfit(task, model, train, config)

    def __len__(self) -> int:
        """How many clients there are."""
        return len(self._split)

    @property
    def stacked_values(self) -> tuple[int, int]:
        """Of how many values models, and samples, are that lie beside each other in training, at most."""
        count, largest = self._per_round or len(self), int(self._split.sizes.max())
        return (0, 0) if self.why_alone else self._stacked.values(count, largest, self._config)

    def follow(self, split: ClientSplit) -> None:
        """Go on with more records, of as many clients."""
        self._split = split
        self._seeds.clear()

    def choose(self) -> None:
        """Find out, once, whether clients can train together: the first steps of some are taken either way.

        Model and attributes are put back. What vmap refuses, or does otherwise than a client by itself,
        trains alone.
        """
        if self.why_alone:
            return
        trial = StackedTrial(self._task, self._model, self._train, self._stacked, self._config)
        some = trial.clients(self._split.sizes)
        values = np.empty(self._model.size, self._model.wire_dtype)
        self._model.store(values)
        before = self._attributes.state()
        with kept(self._model.module):
            self._attributes.load({})
            self._model.load(values)
            try:
                each = self._alone(some, 1, None, trial.config)
                alone = [(one.change.clone(), one.result) for one in each]
            except DivergedError:  # the round says so
                self.why_alone = "a client's loss is not finite"
            else:
                self._attributes.load({})
                self._model.load(values)
                self.why_alone = trial.differs(self._jobs(some, 1), alone)
        if self._attributes.remove(is_stacked):
            self.why_alone = self.why_alone or KEPT
        self._attributes.load(before)
        self._model.load(values)

    def drawn(self, round_number: int) -> Clients:
        """The clients that train in a round: of those that have records."""
        clients = np.flatnonzero(self._split.sizes)
        return drawn_clients(self._seed, self._silo, round_number, clients, self._per_round)

    def fit(self, round_number: int, correct: Correct | None) -> tuple[FitResult, dict[str, Vector]]:
        """A round's work from the values that are loaded, which become the mean of what clients trained.

        Raises DivergedError where a client's loss is not finite.
        """
        drawn, mean = self.drawn(round_number), torch.zeros_like(self._model.vector)
        weights = self._split.sizes[drawn] if self._by_samples else np.ones(len(drawn))
        parts = dict(zip(drawn.tolist(), (weights / weights.sum()).tolist(), strict=True))
        records = int(self._split.sizes[drawn].sum())
        loss, steps, count = 0.0, 0, self._model.trainable
        for client, change, result in self.learnt(drawn, round_number, correct):
            mean[:count].add_(change[:count], alpha=parts[client])
            mean[count:].add_(change[count:], alpha=int(self._split.sizes[client]) / records)  # as of silos
            loss, steps = loss + parts[client] * result.loss, steps + result.steps
        self._model.reload()
        self._model.vector.add_(mean)
        return FitResult(loss, steps), {}

    def learnt(
        self, clients: Clients, round_number: int, correct: Correct | None, *, spoiled: bool = False
    ) -> Iterator[Learnt]:
        """What each of the clients learns from the values that are loaded, which it may leave changed.

        With `spoiled`, what is not finite is among it, with a loss that is not either.
        Raises DivergedError else.
        """
        if self.why_alone:
            yield from self._each(clients, round_number, correct, spoiled=spoiled)
            return
        for chunk in self._stacked.chunks(clients, self._split.sizes[clients], self._config):
            self._begin()
            for one in self._stacked.learnt(self._jobs(chunk, round_number), self._config, round_number):
                if math.isfinite(one[2].loss):
                    yield Learnt(*one)
                else:  # told as of a client by itself
                    yield from self._each(np.array(one[:1]), round_number, correct, spoiled=spoiled)

    def _begin(self) -> None:
        """Let the model be as the round began with it, and what is its own as it was at the start."""
        self._model.reload()
        if self._isolated:
            self._model.load_own_state(self._own)
            self._attributes.load({})

    def clipped_sum(
        self, clients: Clients, round_number: int, correct: Correct | None, norm: float
    ) -> tuple[Vector, FitResult, int]:
        """The updates of clients added up (P,), each scaled to an L2 norm of `norm` at most.

        McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models", algorithm 1, with a
        bound on the whole update and weights of one. Also the mean loss, for the silo's own eyes, and how
        many updates are not finite and count as zero.
        """
        count = self._model.trainable
        total, loss, steps, refused = np.zeros(count, self._model.wire_dtype), 0.0, 0, 0
        there = clients[self._split.sizes[clients] > 0]
        for _, change, result in self.learnt(there, round_number, correct, spoiled=True):
            own = as_array(change[:count])  # clipped to the norm, but for the rounding of the sum
            if not math.isfinite(result.loss):
                own[:] = math.nan
            refused += not math.isfinite(clip([own], norm))
            total += own
            loss, steps = loss + result.loss, steps + result.steps
        self._begin()
        return total, FitResult(loss / max(1, len(there)), steps), refused

    def _each(
        self, clients: Clients, round_number: int, correct: Correct | None, *, spoiled: bool
    ) -> Iterator[Learnt]:
        """`learnt` of one after the other."""
        for client in clients.tolist():
            try:
                yield from self._alone(np.array([client]), round_number, correct, self._config)
            except DivergedError:
                if not spoiled:
                    raise
                yield Learnt(client, torch.full_like(self._model.vector, math.nan), FitResult(math.nan, 0))

    def _seed_of(self, client: int) -> int:
        """Of all that is random in a client's work.

        Where nothing of one client may be there for another it follows from the client's own records: its
        number says how many others there are, and one that joins or leaves numbers others anew.
        """
        if not self._isolated:
            return derive(self._seed, self._silo, client)
        if client not in self._seeds:
            self._begin()  # data sets may have a state, too
            found = records_digest(self._train.of(torch.from_numpy(self._split.records(client))))
            self._seeds[client] = derive(self._seed, self._silo, int.from_bytes(found, "little"))
        return self._seeds[client]

    def _jobs(self, clients: Clients, round_number: int) -> list[Job]:
        """What each of the clients has to do."""
        jobs = []
        for client in clients.tolist():
            seed = derive(self._seed_of(client), self._silo, round_number)
            order = torch.Generator().manual_seed(seed)
            jobs.append(Job(client, torch.from_numpy(self._split.records(client)), order))
        return jobs

    def _alone(
        self, clients: Clients, round_number: int, correct: Correct | None, config: TrainConfig
    ) -> Iterator[Learnt]:
        """One after the other."""
        for client in clients.tolist():
            records = torch.from_numpy(self._split.records(client))
            trainer = LocalTrainer(
                *(self._task, self._model, self._train.of(records), config),
                seed=self._seed_of(client),
                silo=self._silo,
                code=self._code,
                schedule=self._schedule,
            )
            trainer.pruned, trainer.rates = self._trainer.pruned, self._trainer.rates
            self._begin()
            result = trainer.fit(round_number, correct)
            self._model.check(own=self._isolated)
            yield Learnt(client, self._model.to_change(), result)
