"""Privacy budget: releases are logged before sums can be read, so that a crash loses and repeats none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from silofl.comm.collective_errors import allgather_object, allgather_parsed
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import PrivacyConfig
from silofl.console import log
from silofl.errors import ChangedDataError, ConfigError, LessProtectionError, StoppedError
from silofl.federation.privacy.data_budget import DataBudget
from silofl.federation.privacy.epsilon_prefetch import EpsilonPrefetch
from silofl.federation.privacy.release_log import Entry, ReleaseLog, union
from silofl.privacy.accountant import Method
from silofl.privacy.ledger import Ledger
from silofl.privacy.places import PLACES
from silofl.privacy.releases import Release

UNKNOWN = "unknown"
"""In place of a tag."""

Price = Callable[[int, int], Mapping[Release, int]]
"""price(silos, round) is what a round over so many silos releases, and how often."""


class PrivacyBudget:
    """One rank's account; the ledger is the same on every rank. Implements `transformed.ReleaseGate`.

    A round that was about to be read when the run was killed is taken again. If every silo then shows the
    same, with the same noise, nothing more is learnt, and it counts once. Otherwise each takes other noise,
    and both count.
    """

    def __init__(
        self,
        group: ElasticGroup,
        config: PrivacyConfig,
        method: Method,
        log: ReleaseLog,
        data_budget: DataBudget | None = None,
        note: Callable[[str], None] = lambda text: None,
        before: Ledger | None = None,
        coordinators: tuple[int, ...] = (),
    ) -> None:
        self._group, self._config, self._method, self._log = group, config, method, log
        self._data_budget, self._note, self._coordinators = data_budget, note, coordinators
        self._repeatable = PLACES[config.place].repeatable
        self.price: Price
        self.before = Ledger() if before is None else before
        """What was released before the first round."""
        self.ledger = self.before.copy()
        self._open: list[Entry] = []
        """What any silo's log has of rounds that are not committed; the same on every rank."""
        self._own: dict[tuple[int, int], str] = {}
        """This silo's tags among them, `UNKNOWN` where it cannot tell any more what it showed."""
        self._more: dict[int, int] = {}
        """Attempts at a round beyond those."""
        self._prefetch = EpsilonPrefetch(config.delta, method)
        self._done = 0
        """The newest round that the ledger has."""

    @property
    def silos(self) -> tuple[int, ...]:
        """Those that are there and have data."""
        return tuple(silo for silo in self._group.members if silo not in self._coordinators)

    def epsilon(self) -> float:
        """Of the federation so far, at the configured delta."""
        return self._prefetch.epsilon(self._whole())

    def epsilon_against(self, silos: int) -> float:
        """`epsilon` for who knows the noise of so many silos."""
        return self._whole().epsilon_against(silos, self._config.delta, self._method)

    def foresee(self, round_number: int) -> None:
        """Begin to work out what `epsilon` will be after a round over all silos that are there."""
        ledger, silos = self._whole(), self.silos
        if not self._opened(round_number):
            _count(ledger, tuple(self.price(len(silos), round_number).items()), silos)
        self._prefetch.foresee(ledger)

    def epsilon_per_silo(self) -> dict[int, float]:
        """Of each silo's data so far."""
        return self._whole().epsilon_per_silo(self._config.delta, self._method)

    def _whole(self) -> Ledger:
        """The ledger, and what a killed run may have shown of rounds that it does not have."""
        ledger = self.ledger.copy()
        for entry in self._open:
            if entry.round > self._done:
                _count(ledger, entry.releases, entry.silos)
        return ledger

    def begin(self, committed: int) -> None:
        """Take up what is in the logs behind round `committed`; collective."""
        mine, self._done = self._log.after(committed), committed
        told = [entry.to_json() for entry in mine]
        every = self._group.step(
            lambda: allgather_parsed(self._group.comm, told, _entries, "what it may have released")
        )
        self._own = {(entry.round, entry.attempt): entry.tag for entry in mine}
        self._open = union([entry for entries in every for entry in entries])
        if self._log.exists:
            self._log.repair()
        else:
            self.disown()

    def disown(self) -> None:
        """Know no more, on disk either, what this silo showed where it was a part: not even that it did."""
        unknown = [replace(one, tag=UNKNOWN) for one in self._open if self._group.silo_id in one.silos]
        self._own |= {(entry.round, entry.attempt): UNKNOWN for entry in unknown}
        self._log.repair(unknown)

    def affords(self, rounds: int) -> bool:
        """Whether so many more rounds over all silos that are there stay within `privacy.max_epsilon`.

        And within this silo's own budget for its data, of which the others learn this alone.
        """
        most, silos = self._config.max_epsilon, self.silos
        new = Counter[Release]()
        for number in range(self._done + 1, self._done + 1 + rounds):
            if not self._opened(number):  # else it is counted, and shows the same
                new.update(self.price(len(silos), number))
        if self._data_budget is not None and self._data_budget.over(new):
            return False
        if most is None:
            return True
        ledger = self._whole()
        _count(ledger, tuple(new.items()), silos)
        return ledger.epsilon(self._config.delta, self._method) <= most

    def refuse_first(self) -> None:
        """Raise ConfigError where this silo's own budget has no room for a round."""
        if self._data_budget is None or self._opened(self._done + 1):  # which is counted
            return
        why = self._data_budget.over(self.price(len(self.silos), self._done + 1))
        if why:
            self._tell(why)
            raise ConfigError(
                f"silo {self._group.silo_id}'s own budget for its data, privacy.budget_epsilon, has no room "
                "for a round; what is spent is told to that silo alone, in its own log",
                rank=self._group.comm.rank,
            )

    def attempt(self, round_number: int) -> int:
        """See `ReleaseGate`."""
        newest = max((entry.attempt for entry in self._opened(round_number)), default=0)
        return newest + self._more.get(round_number, 0)

    def repeats(self, round_number: int, attempt: int, tag: str) -> bool:
        """See `ReleaseGate`."""
        before = [entry for entry in self._opened(round_number) if entry.attempt == attempt]
        if not before:
            return True
        mine = self._repeatable and self._own.get((round_number, attempt)) == tag
        mine = mine and all(entry.silos == self.silos for entry in before)
        if not all(self._group.step(lambda: allgather_object(self._group.comm, mine))):
            self.retake(round_number)
            return False
        return True

    def repeats_alone(self, round_number: int, attempt: int, tag: str) -> bool:
        """Whether this silo shows what it may have shown in this attempt before, if it did."""
        return self._own.get((round_number, attempt), tag) == tag

    def was_begun(self, round_number: int) -> bool:
        """Whether a killed run may have shown something of a round, so that it may be taken twice now."""
        return bool(self._opened(round_number))

    def retake(self, round_number: int) -> None:
        """Let the next attempt at a round be under way."""
        self._more[round_number] = self._more.get(round_number, 0) + 1

    def authorize(self, round_number: int, attempt: int, tag: str, silos: tuple[int, ...]) -> None:
        """See `ReleaseGate`. StoppedError where the sum must not be read."""
        for entry in self._opened(round_number):
            if entry.attempt == attempt and entry.silos != silos:
                raise StoppedError(
                    f"round {round_number} was about to be read of silos {entry.silos}, is now of {silos}, "
                    "and has the same noise: it stays unread; --resume takes it again with other noise",
                    rank=0,
                )
        self.note(round_number, attempt, tag, silos)

    def note(self, round_number: int, attempt: int, tag: str, silos: tuple[int, ...]) -> None:
        """`authorize` where a sum over fewer silos would show nothing more, for each adds all its noise."""
        entry = Entry(round_number, attempt, tag, silos, tuple(self.price(len(silos), round_number).items()))
        self._refuse_over_budget(entry)
        self._spend(entry)
        self._log.append(entry)

    def _spend(self, entry: Entry) -> None:
        """Count what is about to be shown of this silo's data; StoppedError where its own budget has no room.

        How much that is it is told alone.
        """
        if self._data_budget is None:
            return
        over = self._data_budget.spend((entry.round, entry.attempt), entry.tag, entry.releases)
        if over:
            raise self.refusal(entry.round, over)

    def refusal(self, round_number: int, why: str) -> StoppedError:
        """The error of a silo whose own budget ends the run; `why` goes to its own log and standard error."""
        self._tell(why)
        return StoppedError(
            f"silo {self._group.silo_id}'s own budget for its data, privacy.budget_epsilon, has no room "
            f"for round {round_number}, whose sum stays unread; its own log alone says what is spent",
            rank=self._group.comm.rank,
        )

    def _refuse_over_budget(self, entry: Entry) -> None:
        if self._config.max_epsilon is None:
            return
        ledger = self._whole()
        if all(one.attempt != entry.attempt for one in self._opened(entry.round)):
            _count(ledger, entry.releases, entry.silos)
        epsilon = ledger.epsilon(self._config.delta, self._method)
        if epsilon > self._config.max_epsilon:
            raise StoppedError(
                f"round {entry.round} over {len(entry.silos)} silos would spend epsilon {epsilon:.4g}, above "
                f"privacy.max_epsilon = {self._config.max_epsilon:g}: it stays unread",
                rank=0,
            )

    def _tell(self, why: str) -> None:
        self._note(why)
        log(f"silo {self._group.silo_id}: {why}")

    def record(self, round_number: int, silos: tuple[int, ...]) -> None:
        """The sum over these silos was read; collective.

        What a killed run may have shown of the round counts, too, of every silo that does not show the same.
        """
        _count(self.ledger, tuple(self.price(len(silos), round_number).items()), silos)
        self._done = round_number
        opened = self._opened(round_number)
        if not opened:
            return
        group, attempt = self._group, self.attempt(round_number)
        shown = group.step(lambda: dict(allgather_object(group.comm, [group.silo_id, attempt])))
        for entry in opened:
            others = tuple(silo for silo in entry.silos if shown.get(silo) != entry.attempt)
            _count(self.ledger, entry.releases, others)

    def add(self, releases: Mapping[Release, int], silos: tuple[int, ...]) -> None:
        """Count what was shown of these silos beside a round's price; the same on every rank."""
        _count(self.ledger, tuple(releases.items()), silos)
        if self._data_budget is not None and self._group.silo_id in silos:
            self._data_budget.add_shown(self._done, tuple(releases.items()))

    def _opened(self, round_number: int) -> list[Entry]:
        return [entry for entry in self._open if entry.round == round_number]

    def state(self) -> str:
        """For checkpoints."""
        return self.ledger.to_json()

    def rejoin_state(self) -> dict[str, Any]:
        """What a silo that comes back needs of the others; JSON."""
        opened = [entry.to_json() for entry in self._open]
        return {"open": opened, "more": list(self._more.items()), "done": self._done}

    def come_back(self, rejoin_state: dict[str, Any]) -> None:
        """Take up the others' `rejoin_state()`; what this silo showed before it has to `disown` then."""
        self._open = [Entry.from_json(table) for table in rejoin_state["open"]]
        self._more, self._done = dict(map(tuple, rejoin_state["more"])), rejoin_state["done"]

    def logged(self) -> Ledger:
        """What this silo's own log says that was spent of its data: every attempt at a round once."""
        return spent_in(self._log, self._group.silo_id)

    def refuse_unknown_data(self, own: object | None) -> None:
        """Raise ChangedDataError where bands need the data of before, and this silo has no record of it.

        `own` is its state in a checkpoint. Records are counted by their group in every round, and other data
        would be cut into other groups.
        """
        silo = self._group.silo_id
        if own is None and self._config.bands > 1 and silo in self._whole().silos:
            raise ChangedDataError(
                f"silo {silo} took part in this run and has no checkpoint of its own, which would tell "
                "whether its data is as it was: with privacy.bands each record is counted by its place in "
                "it; put its run directory back (checkpoint.every = 0 keeps nothing there), or leave it out",
                rank=self._group.comm.rank,
            )

    def forgets(self, own: Ledger) -> bool:
        """Whether less was spent of this silo's data than its `own` ledger says."""
        return self._whole().forgets(own, self._group.silo_id)

    def restore(self, state: str) -> None:
        """Take up a `state()`. LessProtectionError where it forgets what came before the first round."""
        self.ledger = Ledger.from_json(state)
        if any(self._whole().forgets(self.before, silo) for silo in self.before.silos):
            raise LessProtectionError(
                "the ledger that is handed out does not have what statistics of columns have spent: the run "
                "does not go on with less protection than it had",
                rank=0,
            )
        others = self.ledger.relations() - {self._config.neighbours}
        if others:
            raise ConfigError(
                f'privacy.neighbours = "{self._config.neighbours}" and the ledger counts under '
                f'"{min(others)}", which do not add up: set it as it was, or begin another run',
                rank=0,
            )


def spent_in(log: ReleaseLog, silo: int, last: float = math.inf) -> Ledger:
    """What a silo's own log says that was spent of its data up to round `last`: every attempt once."""
    ledger = Ledger()
    sums = {(one.round, one.attempt): one for one in log.after(-1) if silo in one.silos and one.round <= last}
    for entry in sums.values():
        _count(ledger, entry.releases, (silo,))
    return ledger


def _entries(told: Any) -> list[Entry]:
    """Of another silo's log; an error for what is none."""
    return [Entry.from_json(table) for table in told]


def _count(ledger: Ledger, releases: tuple[tuple[Release, int], ...], silos: tuple[int, ...]) -> None:
    for release, count in releases:
        ledger.record(release, silos, count)
