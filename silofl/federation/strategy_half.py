"""The silo's half of a strategy at work: what it is told of a round, and what it does to local steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

from torch import Tensor

from silofl.config import Config
from silofl.config.conflicts import corrects
from silofl.errors import DivergedError
from silofl.federation.local_work import RoundStart
from silofl.strategies.base import LocalRound, State
from silofl.training.attributes import Attributes
from silofl.training.comparison import Comparison, frozen_copies
from silofl.training.flat import Correct, FlatModel, as_array
from silofl.training.trainer import LocalTrainer
from silofl.training.trial import kept


@final
class StrategyHalf:
    """What `Strategy` asks of a silo before and during its local steps.

    Args:
        trainer, model, attributes: of the silo.
        config: of the run.
        samples: as how many samples the silo counts.
        silo: its number, for errors.
    """

    def __init__(
        self,
        trainer: LocalTrainer,
        model: FlatModel,
        attributes: Attributes,
        config: Config,
        samples: int,
        silo: int,
    ) -> None:
        self._trainer, self._model, self._attributes = trainer, model, attributes
        self._samples, self._silo = samples, silo
        self._lr, self._momentum = config.train.lr, config.train.momentum or 0.0

    def local_round(self, state: State, start: RoundStart) -> LocalRound:
        """What the strategy sees of a round, as NumPy arrays."""
        gradient = None if start.gradient is None else as_array(start.gradient)
        return self._local_round(start.shared, state, start, gradient)

    def _local_round(
        self, shared: Mapping[str, Any], own: Mapping[str, Any], start: RoundStart, gradient: Any
    ) -> LocalRound:
        told = self._lr, self._samples, start.resync, self._momentum
        return LocalRound(shared, own, *told, start.loss, gradient, start.chosen)

    def correction(self, state: State, start: RoundStart) -> Correct | None:
        """What the strategy does to gradients; None where it does nothing, which costs nothing."""
        strategy, tensor = start.strategy, self._model.tensor
        if not corrects(strategy):
            return None
        on_device = {name: tensor(values) for name, values in start.shared.items()}
        own = {name: tensor(values) for name, values in state.items()}
        local = self._local_round(on_device, own, start, start.gradient)
        return lambda gradient, values: strategy.correct(gradient, values, local)

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
