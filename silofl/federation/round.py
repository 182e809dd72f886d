"""One round, on one screen: train, add up, step, gather, evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.protocols import choose_protocol
from silofl.aggregation.tail import EncodingQuality
from silofl.aggregation.transformed import RetryRound
from silofl.comm.collective_errors import capture, raise_if_any
from silofl.config import Config
from silofl.federation.clock import Clock
from silofl.federation.federation import Federation
from silofl.federation.local_work import Fitted
from silofl.federation.metric_sums import FederationMetrics, MetricSums, agree_on_metrics

Own = Mapping[str, float | None]


@dataclass
class RoundResult:
    """What a round tells of itself on one rank."""

    round: int
    metrics: FederationMetrics = field(default_factory=FederationMetrics)
    """The federation's, over held-out samples, the same on every rank; empty without evaluation."""
    own: Own = field(default_factory=dict)
    """This silo's own metrics."""
    train_loss: float | None = None
    """This silo's mean loss in training; None where it took no step."""
    began: tuple[int, ...] = ()
    """Numbers of the silos that the round's sum was made for."""
    participants: tuple[int, ...] = ()
    """Numbers of the silos whose updates are in the round's sum."""
    quality: EncodingQuality = field(default_factory=EncodingQuality)
    """How well the round's values were encoded."""
    bytes_sent: int = 0
    """Payload that this rank handed to other ranks for the sum, its keys, and the new shared vectors."""

    def shown(self, config: Config) -> Own:
        """What of its own a silo shows: nothing without noise that its training data decided."""
        if not config.run.share_silo_metrics:
            return {}
        told = self.train_loss is not None and config.privacy.unit == "none"
        return {**({"train_loss": self.train_loss} if told else {}), **self.own}


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
    result = RoundResult(number, began=federation.members)
    result.train_loss = fitted.loss if fitted.steps else None
    result.quality, result.participants = aggregator.quality, aggregator.participants

    # This rank is the server of its slice; all slices together are the pending global model.
    with clock.phase("step"):
        federation.server_step(fitted, number)
        result.bytes_sent = group.comm.bytes_sent - sent
        federation.complete(number)

    if evaluate:
        with clock.phase("evaluate"):
            group.comm.mark("evaluate")
            evaluated = capture(lambda: federation.silo.evaluate(federation.values))
            layouts = agree_on_metrics(group, evaluated)
            result.own = evaluated.value().own
            if federation.may_show_metrics(number):
                sums = MetricSums(group, aggregator, fewest_in_metrics(federation), federation.silo.code)
                result.metrics = sums.total(evaluated.value(), layouts, federation.values)
    return result


def fewest_in_metrics(federation: Federation) -> int:
    """Of how many silos a metric has to be that is shown: a sum over fewer would be those silos' own."""
    config, silos = federation.context.config, federation.context.silos
    protocol = choose_protocol(config.secure, silos)
    if config.run.share_silo_metrics or not protocol.private:
        return 1
    return protocol.fewest(config.secure, silos)


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
