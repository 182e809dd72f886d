"""One round, from top to bottom: train, add up, step, gather, evaluate.

`loop.py` calls `run_round` and commits what it has made. The way of one silo's update goes from here into
`silo.py` and back, into the aggregator that the topology has, such as `aggregation/secagg.py`, and into the
topology's step, such as that of `topologies/sharded_server.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from silofl.aggregation.magnitudes import Magnitudes, first_nonfinite, measure
from silofl.aggregation.protocols import choose_protocol
from silofl.aggregation.tail import EncodingQuality
from silofl.aggregation.transformed import RetryRound
from silofl.comm.collective_errors import Result, allgather_parsed, capture
from silofl.comm.protocol import Communicator
from silofl.config import Config
from silofl.detection.silo_standing import Verdict
from silofl.errors import TooFewDrawnError
from silofl.federation.clock import Clock
from silofl.federation.consensus import with_consensus
from silofl.federation.federation import Federation
from silofl.federation.forged_updates import with_forged_updates
from silofl.federation.local_work import Fitted
from silofl.federation.metric_sums import FederationMetrics, MetricSums, agree_on_metrics
from silofl.federation.new_samples import follow_new_samples
from silofl.federation.own_bound import within_bound
from silofl.federation.signed_decisions import verdict_of
from silofl.federation.sum_ahead import SumAhead
from silofl.topologies.robust_steps import rejected_by
from silofl.training.metric_states import beside
from silofl.training.seeding import turn
from silofl.types import Contribution

Own = Mapping[str, float | None]
TRAIN_LOSS = "train_loss"
"""Among what a silo shows of its own."""


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
    drawn: tuple[int, ...] | None = None
    """Numbers of the silos that were drawn to take part; None where all take part, or nobody knows."""
    participants: tuple[int, ...] = ()
    """Numbers of the silos whose updates are in the round's sum."""
    quality: EncodingQuality = field(default_factory=EncodingQuality)
    """How well the round's values were encoded."""
    rejected: tuple[int, ...] = ()
    """Numbers of the silos whose updates are in the sum and were left out by the rule of [robust]."""
    verdict: Verdict | None = None
    """What [detection] has seen and decided; None without."""
    density: float | None = None
    """Which part of the weights that may be pruned is left after it; None where nothing is."""
    staleness: Mapping[int, int] | None = None
    """Of updates in the sum, by silo, in rounds; None where every update is of the newest model."""
    train_seconds: float | None = None
    """How long this silo's last update that counted took; None where the phase of training says it."""
    bytes_sent: int = 0
    """Payload that this rank handed to other ranks for the sum, its keys, and the new shared vectors."""
    messages_sent: int = 0
    """In how many payloads, each for one rank."""
    bytes_between_groups: int | None = None
    """What of it went to ranks of other groups; None where there are no groups."""

    def shown(self, config: Config) -> Own:
        """What of its own a silo shows: nothing without noise that its training data decided."""
        if not config.shares_silo_metrics:
            return {}
        told = self.train_loss is not None and config.privacy.unit == "none"
        if not told:
            return self.own
        return {TRAIN_LOSS: self.train_loss, **beside((TRAIN_LOSS,), self.own)}


def run_round(federation: Federation, number: int, clock: Clock, *, evaluate: bool) -> RoundResult:
    """Advance the global model by one round; collective. Nothing is committed yet.

    A silo that fails meanwhile is left out of the sum, or was in it; the others complete the round.
    """
    group = federation.group
    if federation.context.arrivals is None:
        group.comm.mark("train")
    sent, far, told = group.comm.bytes_sent, group.comm.bytes_between_groups, group.comm.messages_sent
    federation.topology.begin(number)
    with clock.phase("aggregate"):
        federation.follow_mask()
        follow_new_samples(federation, number)

    ahead = SumAhead.of(federation, partial(_sum, federation, number))
    while True:  # again only where a killed run showed other values (`RetryRound`), or drawn silos failed
        learnt = within_bound(federation, *_fit(federation, number, clock, ahead))
        fitted, magnitudes = with_forged_updates(federation, number, *learnt)

        # Many contributions in, slices of their weighted means out.
        with clock.phase("aggregate"), suppress(RetryRound):
            try:
                if ahead is None:
                    _sum(federation, number, fitted.contribution, magnitudes)
                _account(federation, fitted, number)
                break
            except TooFewDrawnError:  # nothing was opened: others are drawn, among those that are left
                if federation.members == group.agreed_members():
                    raise
                federation.rebuild()
    aggregator, arrivals = federation.aggregator, federation.context.arrivals
    result = RoundResult(number, began=federation.members)
    if arrivals is not None:
        result.staleness, result.train_seconds = arrivals.staleness, arrivals.train_seconds
    result.train_loss = fitted.loss if fitted.steps else None
    result.quality, result.participants = aggregator.quality, aggregator.participants
    if federation.context.participation is not None:
        absent = federation.absent(number)
        result.drawn = tuple(silo for silo in federation.members if silo not in absent)

    # This rank is the server of its slice; all slices together are the pending global model.
    with clock.phase("step"):
        _server_step(federation, fitted, number)
        result.rejected = rejected_by(federation.topology)
        result.verdict = verdict_of(federation.context, number)
        result.bytes_sent = group.comm.bytes_sent - sent
        result.messages_sent = group.comm.messages_sent - told
        if group.comm.groups:
            result.bytes_between_groups = group.comm.bytes_between_groups - far
        result.density = _prune(federation, number)
        if federation.privacy is not None:
            federation.privacy.complete(aggregator, number)

    if evaluate:
        with clock.phase("evaluate"):
            _evaluate(federation, result, number)
    return result


def _evaluate(federation: Federation, result: RoundResult, number: int) -> None:
    """Have the new model's metrics in the result, this silo's and the federation's; collective."""
    group, arrivals = federation.group, federation.context.arrivals
    group.comm.mark("evaluate")
    silo = federation.silo if arrivals is None else arrivals.evaluator
    evaluated = capture(lambda: silo.evaluate(federation.own_values(number), number))
    layouts = agree_on_metrics(group, evaluated)
    result.own = evaluated.value().own
    if federation.may_show_metrics(number):
        fewest = fewest_in_metrics(federation)
        sums = MetricSums(group, federation.aggregator, fewest, federation.silo.code)
        found = sums.total(evaluated.value(), layouts, federation.values)
        result.metrics = with_consensus(federation, found, number)


def _fit(
    federation: Federation, number: int, clock: Clock, ahead: SumAhead | None
) -> tuple[Fitted, Magnitudes]:
    """Every silo trains from the shared vectors, while the sum's keys are made beside it; collective.

    A silo that cannot go on says so before anything is shared, or, of steps after a sum `ahead` has begun,
    before anything is made of the sum; and in the same message silos tell what the others' noise is bound to.
    """
    group = federation.group
    with clock.phase("aggregate"):
        federation.aggregator.prepare()
        if federation.privacy is not None and group.comm.rank == 0:  # which tells
            federation.privacy.budget.foresee(number)
    if federation.context.arrivals is not None:
        with clock.phase("wait"):
            federation.context.arrivals.gather(federation.start(number), federation.context.openings)
    with clock.phase("train"):
        trained = capture(lambda: _contribution(federation, number, ahead))
        group.comm.mark("trained")  # where an injected `slow ... at train` is over
    with clock.phase("aggregate"):
        told = capture(lambda: _told(federation, trained.value()[0], number))  # raises what training raised
    with clock.phase("wait"):
        if ahead is not None:
            ahead.finish()
        silos, every = group.step(lambda: (group.members, _exchanged(group.comm, told)))
    if federation.privacy is not None:
        federation.privacy.hear(silos, every)
    return trained.value()


def _contribution(federation: Federation, number: int, ahead: SumAhead | None) -> tuple[Fitted, Magnitudes]:
    """What this silo brings, measured; not collective. TrainingError where it is not finite.

    A silo that sits the round out has nothing to bring: see `Federation.absent`.
    """
    measured: list[Magnitudes] = []

    def measure_of(contribution: Contribution) -> None:
        measured.append(_finite(federation, contribution, number))
        if ahead is not None:
            ahead.begin(contribution, measured[0])

    if federation.group.silo_id in federation.absent(number):
        fitted = federation.silo.nothing(federation.aggregator.spec)
    else:
        fitted = _trained(federation, number, None if ahead is None else measure_of)
    if not measured:
        measure_of(fitted.contribution)
    return fitted, measured[0]


def _finite(federation: Federation, contribution: Contribution, number: int) -> Magnitudes:
    """How large a contribution is. TrainingError where it is not finite."""
    spec = federation.aggregator.spec
    magnitudes = measure(contribution, spec)
    nonfinite = first_nonfinite(magnitudes, spec)
    if nonfinite is not None:
        raise federation.silo.diverged(number, nonfinite)
    return magnitudes


def _told(federation: Federation, fitted: Fitted, number: int) -> bytes:
    """What the others have to know of a contribution before it is added up."""
    privacy = federation.privacy
    return b"" if privacy is None else privacy.tell(fitted.contribution, number)


def _exchanged(comm: Communicator, told: Result[bytes]) -> list[bytes]:
    """What every silo told; raises, on every rank, what any raised instead. Collective."""
    mine = None if told.failed else told.value().hex() or None  # nothing is the shortest message
    return allgather_parsed(
        comm, mine, lambda sent: bytes.fromhex(sent or ""), "what it brings", told.error(comm.rank)
    )


def _trained(federation: Federation, number: int, ahead: Callable[[Contribution], None] | None) -> Fitted:
    """What this silo has learnt from the shared vectors; with [privacy] no more than noise covers."""
    start = federation.start(number, ahead)
    if federation.context.arrivals is not None:
        return federation.context.arrivals.contribution(start)
    with turn() if ahead is None else nullcontext():  # with `ahead`, others may have to go on meanwhile
        return federation.silo.fit(start) if federation.privacy is None else federation.privacy.fit(start)


def _sum(federation: Federation, number: int, contribution: Contribution, magnitudes: Magnitudes) -> None:
    """Add up what all silos learnt; collective."""
    context = federation.context
    asked = context.openings is not None or context.participation is not None
    federation.topology.reduce(
        contribution,
        number,
        magnitudes,
        _terms(federation),
        absent=federation.absent(number),
        authorizer=partial(federation.authorize, number) if asked else None,
    )


def _account(federation: Federation, fitted: Fitted, number: int) -> None:
    """Let this silo's state follow the sum, which is certain now, where it is in it."""
    summed = federation.aggregator
    if summed.spec.bucketing is None or federation.group.silo_id in summed.participants:
        federation.silo.accept(fitted)
    if federation.context.arrivals is not None:
        federation.context.arrivals.accept(federation.aggregator.participants)
    federation.context.feedback.accept()
    if federation.privacy is not None:
        federation.privacy.account(federation.aggregator, number)


def _terms(federation: Federation) -> bytes:
    """What decides contributions besides the shared vectors; the same on every silo."""
    context, privacy = federation.context, federation.privacy
    terms: dict[str, Any] = {} if privacy is None else dict(privacy.terms())
    if context.arrivals is not None:
        terms = {"staleness": sorted(context.arrivals.staleness.items())}
    if context.mask is not None:
        terms = {**terms, "mask": context.mask.digest()}
    return json.dumps([type(context.strategy).__name__, context.membership.resync, terms]).encode()


def _server_step(federation: Federation, fitted: Fitted, number: int) -> None:
    """Step the shared vectors, for all ranks; the update's memory is written over. Collective."""
    membership = federation.context.membership
    federation.topology.step(fitted.contribution.vectors["update"], resync=membership.resync)
    left_out = {*federation.absent(number)} - {*federation.context.coordinators}
    if not left_out:  # else the state of a silo is still missing
        membership.resync = False


def _prune(federation: Federation, number: int) -> float | None:
    """Prune the shared vectors, the same on every rank, without a message; the density that is left."""
    mask = federation.context.mask
    if mask is None:
        return None
    mask.follow(number, federation.topology.shared)
    return mask.density


def fewest_in_metrics(federation: Federation) -> int:
    """Of how many silos a metric has to be that is shown: a sum over fewer would be those silos' own."""
    config, silos = federation.context.config, federation.context.with_data
    protocol = choose_protocol(config.secure, silos)
    if config.shares_silo_metrics or not protocol.private:
        return 1
    return protocol.fewest(config.secure, silos)
