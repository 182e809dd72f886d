"""One round, on one screen: train, add up, step, gather, evaluate."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from silofl.aggregation.noisy import RetryRound
from silofl.comm.collective_errors import capture, raise_if_any
from silofl.config import Config
from silofl.federation.clock import Clock
from silofl.federation.federation import Federation
from silofl.federation.metrics import Metrics
from silofl.types import Update


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
    clipped_silos: int = 0
    """How many silos had values beyond `secure.range`; always 0 where the range is agreed."""

    def shown(self, config: Config) -> Metrics:
        """What of its own a silo shows: nothing without noise that its training data decided."""
        if not config.run.share_silo_metrics:
            return {}
        hidden = {"train_loss"} if config.privacy.unit != "none" else set()
        return {name: value for name, value in self.own.items() if name not in hidden}


def run_round(federation: Federation, number: int, clock: Clock, *, evaluate: bool) -> RoundResult:
    """Advance the global model by one round; collective. Nothing is committed yet.

    A silo that is lost meanwhile is left out of the sum, or was in it; the others complete the round.
    """
    group, aggregator = federation.group, federation.aggregator
    group.comm.mark("train")

    while True:
        update, train_loss = _fit(federation, number, clock)

        # Many vectors in, slices of their weighted mean out.
        with clock.phase("aggregate"), suppress(RetryRound):
            aggregator.reduce(update, number)
            break
    federation.account(number)
    result = RoundResult(number, own={"train_loss": train_loss}, began=federation.members)
    result.clipped_silos, result.participants = aggregator.clipped_silos, aggregator.participants

    # This rank is the server of its slice; all slices together are the pending global model.
    with clock.phase("step"):
        federation.server_step(update)
        federation.complete(number)

    if evaluate:
        with clock.phase("evaluate"):
            group.comm.mark("evaluate")
            means, count = federation.silo.evaluate(federation.global_vector)
            result.own |= means
            result.means = federation.means(group, aggregator, means, count)
    return result


def _fit(federation: Federation, number: int, clock: Clock) -> tuple[Update, float]:
    """Every silo trains from the global model, while the sum's keys are made beside it; collective.

    A silo that failed says so before anything is shared.
    """
    group = federation.group
    with clock.phase("aggregate"):
        federation.aggregator.prepare()
    with clock.phase("train"):
        trained = capture(lambda: federation.fit(number))
        group.comm.mark("trained")  # where a rehearsed `slow ... at train` is over
    with clock.phase("wait"):
        group.step(lambda: raise_if_any(group.comm, trained.error(group.comm.rank)))
    update, fit = trained.value()
    return update, fit.loss
