"""One round, on one screen: train, add up, step, gather, evaluate."""

from __future__ import annotations

from dataclasses import dataclass, field

from silofl.comm.verdict import together
from silofl.federation.clock import Clock
from silofl.federation.federation import Federation
from silofl.federation.metrics import Metrics


@dataclass
class RoundResult:
    """What a round tells of itself on one rank."""

    round: int
    means: Metrics = field(default_factory=dict)
    """The federation's means over held-out samples, the same on every rank; empty without evaluation."""
    own: Metrics = field(default_factory=dict)
    """This silo's training loss and its own means."""
    survivors: list[int] = field(default_factory=list)
    clipped_silos: int = 0
    """How many silos had values beyond `secure.range`; always 0 where the range is agreed."""


def run_round(federation: Federation, number: int, clock: Clock, *, evaluate: bool) -> RoundResult:
    """Advance the global model by one round; collective. Nothing is committed yet."""
    comm, silo = federation.comm, federation.silo

    # Every silo trains from the global model, while the sum's keys are made beside it; a silo that failed
    # says so before anything is shared.
    with clock.phase("aggregate"):
        federation.aggregator.prepare()
    with clock.phase("wait"), together(comm), clock.phase("train"):
        update, fit = silo.learn(federation.global_vector, number, federation.strategy.local)
    result = RoundResult(number, own={"train_loss": fit.loss}, survivors=list(range(comm.size)))

    # Many vectors in, this rank's slice of their weighted mean out.
    with clock.phase("aggregate"):
        mean = federation.aggregator.mean_slice(update, number)
        result.clipped_silos = federation.aggregator.clipped_silos

    # This rank is the server of its slice; all slices together are the pending global model.
    with clock.phase("step"):
        federation.server.step(federation.global_vector, mean)
    with clock.phase("gather"):
        federation.gather()

    if evaluate:
        with clock.phase("evaluate"):
            means, count = silo.evaluate(federation.global_vector)
            result.own |= means
            result.means = federation.means(means, count)
    return result
