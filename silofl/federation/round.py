"""One round, on one screen: train, add up, step, gather, evaluate."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.tail import EncodingQuality
from silofl.aggregation.transformed import RetryRound
from silofl.comm.collective_errors import capture, raise_if_any
from silofl.config import Config
from silofl.federation.clock import Clock
from silofl.federation.federation import Federation
from silofl.federation.metrics import Metrics
from silofl.federation.silo import Fitted


@dataclass
class RoundResult:
    """What a round tells of itself on one rank."""

    round: int
    means: Metrics = field(default_factory=dict)
    """The federation's means over held-out samples, the same on every rank; empty without evaluation."""
    own: Metrics = field(default_factory=dict)
    """This silo's training loss and its own means."""
    began: tuple[int, ...] = ()
    """Numbers of the silos that the round's sum was made for."""
    participants: tuple[int, ...] = ()
    """Numbers of the silos whose updates are in the round's sum."""
    quality: EncodingQuality = field(default_factory=EncodingQuality)
    """How well the round's values were encoded."""
    bytes_sent: int = 0
    """Payload that this rank handed to other ranks for the sum, its keys, and the new shared vectors."""

    def shown(self, config: Config) -> Metrics:
        """What of its own a silo shows: nothing without noise that its training data decided."""
        if not config.run.share_silo_metrics:
            return {}
        hidden = {"train_loss"} if config.privacy.unit != "none" else set()
        return {name: value for name, value in self.own.items() if name not in hidden}


def run_round(federation: Federation, number: int, clock: Clock, *, evaluate: bool) -> RoundResult:
    """Advance the global model by one round; collective. Nothing is committed yet.

    A silo that fails meanwhile is left out of the sum, or was in it; the others complete the round.
    """
    group = federation.group
    group.comm.mark("train")
    sent = group.comm.bytes_sent

    while True:
        fitted, magnitudes = _fit(federation, number, clock)

        # Many contributions in, slices of their weighted means out.
        with clock.phase("aggregate"), suppress(RetryRound):
            federation.reduce(fitted, number, magnitudes)
            break
    aggregator = federation.aggregator
    own = {"train_loss": fitted.loss} if fitted.steps else {}
    result = RoundResult(number, own=own, began=federation.members)
    result.quality, result.participants = aggregator.quality, aggregator.participants

    # This rank is the server of its slice; all slices together are the pending global model.
    with clock.phase("step"):
        federation.server_step(fitted, number)
        result.bytes_sent = group.comm.bytes_sent - sent
        federation.complete(number)

    if evaluate:
        with clock.phase("evaluate"):
            group.comm.mark("evaluate")
            means, count = federation.silo.evaluate(federation.values)
            result.own |= means
            if federation.may_show_metrics(number):
                result.means = federation.context.means(group, aggregator, means, count, federation.values)
    return result


def _fit(federation: Federation, number: int, clock: Clock) -> tuple[Fitted, Magnitudes]:
    """Every silo trains from the shared vectors, while the sum's keys are made beside it; collective.

    A silo that cannot go on says so before anything is shared.
    """
    group = federation.group
    with clock.phase("aggregate"):
        federation.aggregator.prepare()
    with clock.phase("train"):
        trained = capture(lambda: federation.fit(number))
        group.comm.mark("trained")  # where an injected `slow ... at train` is over
    with clock.phase("wait"):
        group.step(lambda: raise_if_any(group.comm, trained.error(group.comm.rank)))
    return trained.value()
