"""The silo's half of a strategy at work: what it is told of a round, and what it does to local steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

import numpy as np
from torch import Tensor

from silofl.config import Config
from silofl.config.conflicts import corrects
from silofl.errors import DivergedError
from silofl.federation.local_work import RoundStart
from silofl.strategies.base import LocalRound, State, Strategy
from silofl.training.attributes import Attributes
from silofl.training.comparison import Comparison, frozen_copies
from silofl.training.earlier import Earlier
from silofl.training.flat import Correct, FlatModel, as_array
from silofl.training.fragments import fragments_of
from silofl.training.mask_training import MaskTraining
from silofl.training.trainer import FitResult, LocalTrainer
from silofl.training.trial import kept
from silofl.types import Contribution, Vector

LOCAL, OF_ROUND = "local model", "round of local model"
"""In a silo's state: its model (P,) where that goes on from round to round, and of which round it is (1,)."""


def unmoved(model: FlatModel, trained: Vector, start: RoundStart) -> list[str]:
    """Names of the shared parameters whose trained values, or whose gradient, (P,) say that none moved."""
    moved = trained != 0 if start.strategy.local == "gradient" else trained != start.model
    parts = np.split(moved, model.tensor_ends[:-1])
    return [name for name, part in zip(model.tensor_names, parts, strict=True) if not part.any()]


@final
class StrategyHalf:
    """What `Strategy` asks of a silo before and during its local steps.

    Args:
        trainer, model, attributes: of the silo.
        config: of the run.
        samples: as how many samples the silo counts.
        silo: its number, for errors.
        strategy: of the run.

    Attributes:
        fragments: of the parameters, one of which a round sums.
        samples: see above; it may change between rounds.

    Raises ConfigError where the model has fewer tensors than the strategy wants fragments.
    """

    def __init__(
        self,
        trainer: LocalTrainer,
        model: FlatModel,
        attributes: Attributes,
        config: Config,
        samples: int,
        silo: int,
        strategy: Strategy,
    ) -> None:
        self._trainer, self._model, self._attributes = trainer, model, attributes
        self.samples, self._silo = samples, silo
        self._lr, self._momentum = config.train.lr, config.train.momentum or 0.0
        self._streaming, self._steps = strategy.streaming(), config.train.steps or 0
        self._taken: Contribution | None = None
        count = 1 if self._streaming is None else self._streaming.fragments
        self.fragments = fragments_of(model.tensor_ends, count)

    def local_round(self, state: State, start: RoundStart) -> LocalRound:
        """What the strategy sees of a round, as NumPy arrays."""
        gradient = None if start.gradient is None else as_array(start.gradient)
        return self._local_round(start.shared, state, start, gradient)

    def _local_round(
        self, shared: Mapping[str, Any], own: Mapping[str, Any], start: RoundStart, gradient: Any
    ) -> LocalRound:
        lr = self._lr * self._trainer.optimizer.schedule.factor(start.round_number)
        told = lr, self.samples, start.resync, self._momentum
        return LocalRound(shared, own, *told, start.loss, gradient, start.chosen)

    def correction(self, state: State, start: RoundStart) -> Correct | None:
        """What the strategy does to gradients; None where it does nothing, which costs nothing."""
        strategy, tensor = start.strategy, self._model.tensor
        if not corrects(strategy):
            return None
        on_device = {name: tensor(values) for name, values in start.shared.items()}
        own = {name: tensor(values) for name, values in state.items()}
        local = self._local_round(on_device, own, start, start.gradient)

        def correct(gradient: Tensor, values: Tensor) -> None:
            strategy.correct(gradient, values, local)
            self._trainer.pruned.clear_gradients()  # of which they are views

        return correct

    def load(self, start: RoundStart) -> None:
        """Load the shared model, of which what is pruned stays zero in all steps."""
        self._model.load_parts(start.model, start.buffers)
        self._trainer.pruned = self._trainer.pruned.following(self._model, start.kept)

    def measured(self, start: RoundStart) -> RoundStart:
        """With what the strategy asks for at the shared model, which is loaded; that leaves no trace."""
        asked = start.strategy.at_start()
        if asked == "nothing":
            return start
        loss, gradient = self._measure(start.round_number, gradient=asked == "gradient")
        return replace(start, loss=loss, gradient=gradient)

    def _measure(self, round_number: int, *, gradient: bool) -> tuple[float, Tensor | None]:
        before = self._attributes.state()
        with kept(self._model.module):
            found = self._trainer.measure(round_number, gradient=gradient)
        self._attributes.load(before)
        return found

    def chosen(self, start: RoundStart) -> RoundStart:
        """With the model of lowest loss on the silo's training samples chosen, the first of equals.

        The loss of one that is bad for these samples may be infinite; DivergedError where that of all is.
        """
        names = start.strategy.models
        if len(names) == 1:
            return start
        losses, refused = [], []
        for name in names:
            self._model.load_parts(start.shared[name], start.buffers)
            try:
                losses.append(self._measure(start.round_number, gradient=False)[0])
            except DivergedError as error:
                losses.append(math.inf)
                refused.append(error)
        if len(refused) == len(names):
            raise refused[0]
        return replace(start, chosen=names[losses.index(min(losses))])

    def in_place_of_training(self, state: State, start: RoundStart) -> tuple[Tensor, FitResult]:
        """What `Strategy.local` says: the gradient (P,), or a mask (P,) of weights."""
        if start.strategy.local == "gradient":
            return self._trainer.gradient(start.round_number)
        tensor, model = self._model.tensor, self._model
        probabilities = start.strategy.probabilities(self.local_round(state, start))
        training, network = MaskTraining(self._trainer, model), tensor(start.shared["network"])
        result = training.fit(start.round_number, network, tensor(probabilities))
        return model.parameters, result

    @contextmanager
    def comparing(self, state: State, start: RoundStart) -> Iterator[None]:
        """While losses have the strategy's penalty; the shared model is loaded."""
        strategy = start.strategy
        layer = strategy.compared_layer()
        if layer is None:
            yield
            return
        references = strategy.references(self.local_round(state, start))
        copies = frozen_copies(self._model, references, start.buffers, self._silo)
        self._model.load_parts(start.model, start.buffers)
        comparison = Comparison(self._model.module, copies, layer, strategy.penalty, self._silo)
        self._trainer.comparison = comparison
        try:
            with comparison.listening():
                yield
        finally:
            self._trainer.comparison = None

    def begin(self, state: State, start: RoundStart) -> None:
        """Turn from the shared model, which is loaded, to the silo's own where that goes on.

        Fragments that were summed since it was trained are mixed into it: that of the round before and, of a
        silo that was away, those of the rounds that it missed.
        """
        streaming, shared = self._streaming, start.shared["model"]
        if streaming is None:
            return
        if LOCAL in state:
            local = state[LOCAL].copy()
            for index in streaming.summed(int(state[OF_ROUND][0]), start.round_number):
                part = self.fragments[index].values
                streaming.mix(local[part], shared[part])
            self._model.load_parts(local, start.buffers)
        if streaming.delay:
            part, before = self._part(start.round_number), self._steps - streaming.delay
            self._trainer.earlier = Earlier(self._model, part, before, lambda found: self._take(found, start))

    def _part(self, round_number: int) -> slice:
        """Which of the parameters a round sums."""
        index = 0 if self._streaming is None else self._streaming.fragment(round_number)
        return self.fragments[index].values

    def _take(self, found: Tensor, start: RoundStart) -> None:
        """Make the contribution of a fragment (k,) before the last local step."""
        self._taken = self._contribution(as_array(found), FitResult(math.nan, self._steps), start)
        if start.ahead is not None:
            start.ahead(self._taken)

    def _contribution(self, values: Vector, result: FitResult, start: RoundStart) -> Contribution:
        """Of a fragment (k,), which is written over."""
        shared = {"model": start.shared["model"][self._part(start.round_number)]}
        local = self.local_round({}, replace(start, shared=shared))
        return start.strategy.contribute(values, result.steps, result.loss, local)[0]

    def contribute(
        self, state: State, trained: Vector, result: FitResult, start: RoundStart
    ) -> tuple[Contribution, State]:
        """What to send of trained parameters (P,), or of the round's fragment of them; the next state.

        Raises DivergedError where the local model, most of which no sum looks at, is not finite.
        """
        if start.round_number == 1 and start.strategy.local != "masks":
            self._trainer.unmoved = unmoved(self._model, trained, start)
        if start.kept is not None:
            trained[~start.kept] = 0  # also where a forward pass has put other tensors in their place
        if self._streaming is None:
            local = self.local_round(state, start)
            return start.strategy.contribute(trained, result.steps, result.loss, local)
        if not np.isfinite(trained).all():
            raise self._trainer.diverged(start.round_number, "its local model has values that are not finite")
        kept_model = {LOCAL: trained.copy(), OF_ROUND: np.array([start.round_number])}
        taken, self._taken, self._trainer.earlier = self._taken, None, None
        if taken is None:
            taken = self._contribution(trained[self._part(start.round_number)], result, start)
        return taken, kept_model
