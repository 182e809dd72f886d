"""Privacy budget: releases are logged before sums can be read, so that a crash loses and repeats none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from silofl.comm.collective_errors import allgather_object, allgather_parsed
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import PrivacyConfig
from silofl.errors import StoppedError
from silofl.federation.privacy.epsilon_prefetch import EpsilonPrefetch
from silofl.federation.privacy.release_log import Entry, ReleaseLog
from silofl.privacy.accountant import Method
from silofl.privacy.ledger import Ledger, rounded
from silofl.privacy.places import PLACES
from silofl.privacy.releases import Release

UNKNOWN = "unknown"
"""In place of a tag."""

Price = Callable[[int], Mapping[Release, int]]
"""price(silos) is what a round over so many silos releases, and how often."""


class PrivacyBudget:
    """One rank's account; the ledger is the same on every rank. Implements `transformed.ReleaseGate`.

    A round that was about to be read when the run was killed is taken again. If every silo then shows the
    same, with the same noise, nothing more is learnt, and it counts once. Otherwise each takes other noise,
    and both count.
    """

    def __init__(self, group: ElasticGroup, config: PrivacyConfig, method: Method, log: ReleaseLog) -> None:
        self._group, self._config, self._method, self._log = group, config, method, log
        self._repeatable = PLACES[config.place].repeatable
        self.price: Price
        self.ledger = Ledger()
        self._open: list[Entry] = []
        """What any silo's log has of rounds that are not committed; the same on every rank."""
        self._own: dict[tuple[int, int], str] = {}
        """This silo's tags among them, `UNKNOWN` where it cannot tell any more what it showed."""
        self._more: dict[int, int] = {}
        """Attempts at a round beyond those."""
        self._prefetch = EpsilonPrefetch(config.delta, method)
        self._done = 0
        """The newest round that the ledger has."""

    def epsilon(self) -> float:
        """Of the federation so far, at the configured delta."""
        return self._prefetch.epsilon(self._whole())

    def foresee(self, round_number: int) -> None:
        """Begin to work out what `epsilon` will be after a round over all silos that are there."""
        ledger, members = self._whole(), self._group.members
        if not self._opened(round_number):
            _count(ledger, tuple(self.price(len(members)).items()), members)
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
        self._open = _union([entry for entries in every for entry in entries])
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
        """Whether so many more rounds over all silos that are there stay within `privacy.max_epsilon`."""
        most, members = self._config.max_epsilon, self._group.members
        if most is None:
            return True
        ledger, coming = self._whole(), range(self._done + 1, self._done + 1 + rounds)
        price = tuple(self.price(len(members)).items())
        for number in coming:
            if not self._opened(number):  # else it is counted, and shows the same
                _count(ledger, price, members)
        return ledger.epsilon(self._config.delta, self._method) <= most

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
        mine = mine and all(entry.silos == self._group.members for entry in before)
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
        entry = Entry(round_number, attempt, tag, silos, tuple(self.price(len(silos)).items()))
        self._refuse_over_budget(entry)
        self._log.append(entry)

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

    def record(self, round_number: int, silos: tuple[int, ...]) -> None:
        """The sum over these silos was read; collective.

        What a killed run may have shown of the round counts, too, of every silo that does not show the same.
        """
        self.add(self.price(len(silos)), silos)
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
        """Count what was shown of these silos; the same on every rank."""
        _count(self.ledger, tuple(releases.items()), silos)

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
        silo, ledger = self._group.silo_id, Ledger()
        sums = {(one.round, one.attempt): one for one in self._log.after(0) if silo in one.silos}
        for entry in sums.values():
            _count(ledger, entry.releases, (silo,))
        return ledger

    def forgets(self, own: Ledger) -> bool:
        """Whether less was spent of this silo's data than its `own` ledger says."""
        return self._whole().forgets(own, self._group.silo_id)

    def restore(self, state: str) -> None:
        """Take up a `state()`."""
        self.ledger = Ledger.from_json(state)


def _entries(told: Any) -> list[Entry]:
    """Of another silo's log; an error for what is none."""
    entries = [Entry.from_json(table) for table in told]
    for entry in entries:
        whole = (entry.round, entry.attempt, *entry.silos, *(count for _, count in entry.releases))
        if not isinstance(entry.tag, str) or not all(type(one) is int and one >= 0 for one in whole):
            raise TypeError("no entry")
    return entries


def _count(ledger: Ledger, releases: tuple[tuple[Release, int], ...], silos: tuple[int, ...]) -> None:
    for release, count in releases:
        ledger.record(release, silos, count)


def _union(entries: list[Entry]) -> list[Entry]:
    """One of each sum, whichever silos wrote of it, in one order.

    Where silos say that it cost different things all of these count: nobody's log makes another's cheaper.
    """
    found = {}
    for entry in entries:
        cost = rounded(dict(entry.releases))
        found[entry.round, entry.attempt, entry.silos, str(sorted(cost.items(), key=str))] = entry
    return [found[key] for key in sorted(found)]
