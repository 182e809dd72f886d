"""Arrivals of asynchronous silos: they train beside rounds, and a sum is of those that have trained.

`round.py` calls `Arrivals.gather` where silos would train: all ranks tell each other whether they have
trained, until a sum may open (`topologies/arrangements/_buffering.py` says when). All others are absent from
that sum, as silos are that sit a round out: their main threads bring zeros to it while they train on.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, ClassVar

import numpy as np

from silofl.comm.collective_errors import allgather_object, allgather_parsed, capture
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.errors import ConfigError, SiloflError, TooFewDrawnError
from silofl.federation.background_training import BackgroundTraining
from silofl.federation.local_work import Fitted, RoundStart
from silofl.federation.openings import Openings
from silofl.federation.participation import buffering_of
from silofl.federation.silo import Silo
from silofl.federation.stateful import Json, Part, State
from silofl.federation.update_ledger import UpdateLedger
from silofl.launcher import watchdog
from silofl.report.round_metrics import silos_text
from silofl.topologies.arrangements._buffering import Buffering, Flight
from silofl.topologies.virtual_time import VirtualTime
from silofl.training.flat import FlatModel
from silofl.training.seeding import turn

Silos = tuple[int, ...]
SHORTEST_PAUSE_S, LONGEST_PAUSE_S, PAUSE_SHARE = 1e-3, 2e-2, 0.05
"""Between two questions whether silos have trained: a share of the time waited so far, within bounds."""
FLIGHT = "flight"
"""Key of the base of an update that is under way, in a silo's checkpoint."""


@dataclass(frozen=True)
class Told:
    """What a silo tells of its training."""

    flight: Flight
    late: bool
    """Whether its clock says that the deadline is over, which counts where more than half say so."""

    @classmethod
    def parsed(cls, value: Any) -> Told:
        """From a message."""
        base, ready, late = value
        return cls(Flight(int(base), bool(ready)), bool(late))


class Arrivals(Part):
    """One rank's part of it, with its silo's: in checkpoints it stands for the silo.

    Args:
        group: the ranks.
        silo: this rank's, which trains in a thread of its own from here on.
        rule: when sums open.
        silent_s: after how many seconds without a batch training counts as stalled.

    Attributes:
        evaluator: the silo with another model, for evaluations meanwhile.
        staleness: of the updates that the round's sum has, by silo.
        train_seconds: how long this silo's last update that counted took.
        ledger: the updates that have counted.

    Raises ConfigError for a model with parameters of the silo's own, or that cannot be copied.
    """

    name = "silo"
    all_in_resync: ClassVar[bool] = False
    """See `Participation`."""

    def __init__(self, group: ElasticGroup, silo: Silo, rule: Buffering, silent_s: float) -> None:
        self._group, self._silo, self._rule, self._silent_s = group, silo, rule, silent_s
        self.evaluator = _evaluator_of(silo, group.silo_id)
        self._training: BackgroundTraining[Fitted] = BackgroundTraining(
            lambda: group.comm.mark("train"), lambda: group.comm.mark("trained")
        )
        self._base: RoundStart | None = None
        """What the update under way was, or is, trained from."""
        self._resumed: State | None = None
        """The same of a checkpoint, until training begins."""
        self._before: State | None = None
        """The silo's state as it began."""
        self._done: tuple[Fitted, float] | None = None
        self._virtual = VirtualTime(rule, rule.seconds)
        self._round, self._silos = 0, Silos()
        self._since = time.monotonic()
        self.staleness: dict[int, int] = {}
        self.train_seconds: float | None = None
        self.ledger = UpdateLedger()

    @classmethod
    def of(cls, group: ElasticGroup, config: Config, silo: Silo, silos: int) -> Arrivals | None:
        """This rank's; None where every sum is over all silos."""
        rule = buffering_of(config, silos)
        return None if rule is None else cls(group, silo, rule, config.failure.silent_s)

    def __enter__(self) -> Arrivals:
        """While rounds are run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of training whose update will be in no sum, so that the silo's model is free."""
        if not self._training.end(self._silent_s) and error is None:
            raise self._stalled()

    def gather(self, start: RoundStart, openings: Openings | None) -> None:
        """Train, from `start` unless an update is under way, until the round's sum may open; collective.

        Raises StoppedError where `openings` have the round as opened with a silo that is not there any more.
        """
        number, began = start.round_number, time.monotonic()
        if self._round != number:
            self._since = began
        while True:
            members, told = self._exchanged(start)
            every = dict(zip(members, told, strict=True))
            flights = {silo: one.flight for silo, one in every.items()}
            self.ledger.refuse_repeated({silo: one.base for silo, one in flights.items()}, number)
            opened_for = None if openings is None else openings.opened_for(number, members)
            silos = self._opening(number, flights, opened_for, late=_most(told))
            if silos is not None:
                break
            waited = time.monotonic() - began
            time.sleep(min(max(PAUSE_SHARE * waited, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))
        self._round, self._silos = number, silos
        self.staleness = {silo: number - 1 - flights[silo].base for silo in silos}

    def _exchanged(self, start: RoundStart) -> tuple[Silos, list[Told]]:
        """The silos that are there and what each tells; raises on all ranks what training raised on any."""
        mine = capture(lambda: self._mine(start))
        value = None if mine.failed else mine.value()

        def exchange() -> tuple[Silos, list[Told]]:
            comm = self._group.comm
            error = mine.error(comm.rank)
            return comm.members, allgather_parsed(comm, value, Told.parsed, "its training", error)

        return self._group.step(exchange)

    def _mine(self, start: RoundStart) -> list[Any]:
        """What this silo tells; it begins to train where it does not. Raises what its training raised."""
        if self._done is None and not self._training.busy:
            self._begin(start)
        if self._done is None and self._training.over:
            self._done = self._training.take()
        if self._training.stalled(self._silent_s):
            self._be_silent()
        assert self._base is not None, "training has begun"
        deadline = self._rule.deadline_s
        late = deadline is not None and time.monotonic() - self._since >= deadline
        return [self._base.round_number - 1, self._done is not None, late]

    def _begin(self, start: RoundStart) -> None:
        """Train from `start`, which the rounds to come change, or again from what a checkpoint had."""
        kept, self._resumed = self._resumed, None
        shared = {name: values.copy() for name, values in start.shared.items()}
        base = replace(start, shared=shared, buffers=start.buffers.copy(), resync=False)
        if kept is not None:
            base = replace(base, shared=kept["shared"], buffers=kept["buffers"], round_number=kept["round"])
        self._base, self._before = base, copy.deepcopy(self._silo.state())
        self._training.begin(lambda: self._fit(base))

    def _fit(self, base: RoundStart) -> Fitted:
        with turn():
            return self._silo.fit(base)

    def _be_silent(self) -> None:
        """Do nothing, so that the watchdog ends this rank; without one SiloflError, which ends the run."""
        while watchdog.has_watchdog():
            time.sleep(self._silent_s)
        raise self._stalled()

    def _stalled(self) -> SiloflError:
        silo = self._group.silo_id
        return SiloflError(
            f"silo {silo}: its local training has made no batch for {self._silent_s:g} s (failure.silent_s)",
            rank=silo,
        )

    def _opening(
        self, number: int, flights: dict[int, Flight], opened_for: Silos | None, *, late: bool
    ) -> Silos | None:
        """The silos of the sum, the same on every rank; None where it has to wait."""
        ready = {silo for silo, one in flights.items() if one.ready}
        if not self._rule.seconds and opened_for is None:
            return self._rule.opening(number, flights, late=late)
        silos, at_s = opened_for, self._virtual.now_s
        if self._rule.seconds:
            self._virtual.begin({silo: one.base for silo, one in flights.items()})
            opening = self._virtual.opening(number)
            silos, at_s = silos or opening.silos, opening.at_s
        assert silos is not None, "it was opened, or virtual time says for which silos"
        if not ready.issuperset(silos):
            return None
        self._virtual.now_s = at_s
        return silos

    def drawn(self, number: int, members: Silos) -> Silos:
        """The silos of the sum of a round that was gathered; none before that. See `Participation.drawn`."""
        return tuple(silo for silo in self._silos if silo in members) if number == self._round else ()

    def refuse_too_few(self, number: int, silos: Silos) -> None:
        """See `Authorizer`. Raises TooFewDrawnError where so few are left that no sum is opened over them."""
        if len(silos) < self._rule.fewest:
            raise TooFewDrawnError(
                f"round {number}: of the silos that had trained {silos_text(silos) or 'none'} is left, and a "
                f"sum is over {self._rule.fewest} at least: --resume goes on from the last committed round",
                rank=0,
            )

    def contribution(self, current: RoundStart) -> Fitted:
        """What this silo brings to the round's sum, weighted by its staleness; `current` is newest.

        Valid until the round is over; it can be made again.
        """
        assert self._done is not None, "only a silo that has trained brings anything"
        assert self._base is not None, "it was trained from something"
        fitted, base = self._done[0], self._base
        factor = self._rule.factor(self.staleness[self._group.silo_id])
        given = fitted.contribution
        vectors = {name: values * values.dtype.type(factor) for name, values in given.vectors.items()}
        if self._rule.mixes_models:  # trained - current, of which trained - base is known
            olds = {"update": (base.model, current.model), "buffers": (base.buffers, current.buffers)}
            for name, (old, new) in olds.items():
                if name in vectors:
                    vectors[name] += (old - new) * vectors[name].dtype.type(factor)
        return replace(fitted, contribution=replace(given, vectors=vectors))

    def accept(self, participants: Silos) -> None:
        """The round's sum is certain: the updates of `participants` have counted."""
        self.ledger.count(participants, self._round)
        if self._group.silo_id in participants:
            assert self._done is not None, "it has trained"
            self.train_seconds = self._done[1]
            self._base = self._before = self._done = None

    def state(self) -> State:
        """The silo's state as its update under way began, and what that is trained from."""
        base = self._base
        own: State = self._silo.state() if self._before is None else self._before
        if base is not None:
            flight = {"shared": dict(base.shared), "buffers": base.buffers, "round": base.round_number}
            own = own | {FLIGHT: flight}
        return own | self.rejoin_state()

    def restore(self, state: State | None, committed_by: Silos, *, member: bool) -> None:
        """See `Stateful`: an update that was under way is trained again, from what it was trained from."""
        self._silo.restore(state, committed_by, member=member)
        kept = state if member else None
        mine = None if kept is None else {key: kept[key] for key in self.rejoin_state()}
        every = self._group.step(lambda: allgather_object(self._group.comm, mine))
        told = next((one for one in every if one is not None), None)
        if told is not None:  # a silo that did not commit the round has it from the others
            self._take_up(told)
        flight = None if kept is None else kept.get(FLIGHT)
        if flight is not None:
            shared = {name: np.array(values) for name, values in flight["shared"].items()}
            self._resumed = flight | {"shared": shared, "buffers": np.array(flight["buffers"])}

    def rejoin_state(self) -> Json:
        """See `Stateful`."""
        return {"ledger": self.ledger.to_json(), "virtual": self._virtual.state()}

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`: it begins anew, for what it was training from is in no round to come."""
        self._silo.restore(own)
        self._take_up(told)

    def _take_up(self, told: Json) -> None:
        self.ledger = UpdateLedger.from_json(told["ledger"])
        self._virtual.restore(told["virtual"])


def _most(told: Sequence[Told]) -> bool:
    """Whether the deadline is over for more than half: no silo alone makes buffers smaller."""
    return 2 * sum(one.late for one in told) > len(told)


def _evaluator_of(silo: Silo, number: int) -> Silo:
    """The silo with a copy of its model, which shares nothing that training changes."""
    model = silo.model
    if model.private_names:
        raise ConfigError(
            f"silo {number}: the model keeps {min(model.private_names)} with the silo, and topology.name = "
            '"asynchronous" evaluates on a copy without it: remove the attribute private, or set '
            'topology.name = "sharded"',
            rank=number,
        )
    try:
        module = copy.deepcopy(model.module)
    except Exception as error:
        raise ConfigError(
            f'silo {number}: topology.name = "asynchronous" evaluates on a copy of the model, which '
            f"copy.deepcopy does not make ({type(error).__name__}): let the model be copied, or set "
            'topology.name = "sharded"',
            rank=number,
        ) from None
    twin = copy.copy(silo)
    twin.model = FlatModel(module, model.vector.dtype, model.vector.device)
    return twin
