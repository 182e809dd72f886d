"""One round, on one screen: train, add up, step, gather, evaluate."""

from __future__ import annotations

from dataclasses import dataclass, field

from silofl.comm.verdict import attempt, raise_together
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
    participants: tuple[int, ...] = ()
    """Numbers of the silos whose updates are in the round's sum."""
    clipped_silos: int = 0
    """How many silos had values beyond `secure.range`; always 0 where the range is agreed."""


def run_round(federation: Federation, number: int, clock: Clock, *, evaluate: bool) -> RoundResult:
    """Advance the global model by one round; collective. Nothing is committed yet.

    A silo that is lost meanwhile is left out of the sum, or was in it; the others complete the round.
    """
    crew, silo, aggregator = federation.crew, federation.silo, federation.aggregator
    crew.comm.mark("train")

    # Every silo trains from the global model, while the sum's keys are made beside it; a silo that failed
    # says so before anything is shared.
    with clock.phase("aggregate"):
        aggregator.prepare()
    with clock.phase("train"):
        learnt = attempt(lambda: silo.learn(federation.global_vector, number, federation.strategy.local))
    with clock.phase("wait"):
        crew.step(lambda: raise_together(crew.comm, learnt.problem(crew.comm.rank)))
    update, fit = learnt.result()
    result = RoundResult(number, own={"train_loss": fit.loss})

    # Many vectors in, slices of their weighted mean out.
    with clock.phase("aggregate"):
        aggregator.add_up(update, number)
        result.clipped_silos, result.participants = aggregator.clipped_silos, aggregator.participants

    # This rank is the server of its slice; all slices together are the pending global model.
    with clock.phase("step"):
        federation.advance(update)

    if evaluate:
        with clock.phase("evaluate"):
            crew.comm.mark("evaluate")
            means, count = silo.evaluate(federation.global_vector)
            result.own |= means
            result.means = federation.means(crew, aggregator, means, count)
    return result
