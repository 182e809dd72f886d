"""What a run spends of its privacy: counted before a sum can be read, and never twice, never forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from silofl.comm.crew import Crew
from silofl.config import PrivacyConfig
from silofl.errors import StoppedError
from silofl.federation.journal import Entry, Journal
from silofl.federation.metrics import gather
from silofl.privacy.accountant import Method
from silofl.privacy.ledger import Ledger
from silofl.privacy.releases import Release

Price = Callable[[int], Mapping[Release, int]]
"""price(silos) is what a round over so many silos releases, and how often."""


class Spending:
    """One rank's account; the ledger is the same on every rank. Implements `noisy.Gate`.

    A round that was about to be read when the run was killed is taken again. If every silo then shows the
    same, with the same noise, nobody learns more, and it counts once. Otherwise each takes other noise, and
    both count.
    """

    def __init__(self, crew: Crew, config: PrivacyConfig, method: Method, journal: Journal) -> None:
        self._crew, self._config, self._method, self._journal = crew, config, method, journal
        self.price: Price
        self.ledger = Ledger()
        self._open: list[Entry] = []
        """What any silo's journal has of rounds that are not committed; the same on every rank."""
        self._own: dict[tuple[int, int], str] = {}
        """This silo's tags among them."""
        self._lost_journal = False
        self._more: dict[int, int] = {}
        """Attempts at a round beyond those."""

    def epsilon(self) -> float:
        """Of the federation so far, at the configured delta."""
        return self.ledger.epsilon(self._config.delta, self._method)

    def epsilon_per_silo(self) -> dict[int, float]:
        """Of each silo's data so far."""
        return self.ledger.epsilon_per_silo(self._config.delta, self._method)

    def begin(self, committed: int) -> None:
        """Take up what is in the journals behind round `committed`; collective."""
        mine = self._journal.after(committed)
        every = self._crew.step(lambda: gather(self._crew.comm, [entry.to_json() for entry in mine]))
        self._lost_journal = not self._journal.exists
        self._own = {(entry.round, entry.attempt): entry.tag for entry in mine}
        self._open = _union([Entry.from_json(table) for tables in every for table in tables])
        self._journal.begin(mine)

    def affords(self, rounds: int) -> bool:
        """Whether so many more rounds over all silos that are there stay within `privacy.max_epsilon`."""
        most, members = self._config.max_epsilon, self._crew.members
        if most is None:
            return True
        ledger = self.ledger.copy()
        for release, count in self.price(len(members)).items():
            ledger.record(release, members, count * rounds)
        return ledger.epsilon(self._config.delta, self._method) <= most

    def attempt(self, round_number: int) -> int:
        """See `Gate`."""
        newest = max((entry.attempt for entry in self._opened(round_number)), default=0)
        return newest + self._more.get(round_number, 0)

    def repeats(self, round_number: int, attempt: int, tag: str) -> bool:
        """See `Gate`."""
        before = [entry for entry in self._opened(round_number) if entry.attempt == attempt]
        if not before:
            return True
        mine = self._own.get((round_number, attempt)) == tag
        mine = mine and all(entry.silos == self._crew.members for entry in before)
        if not all(self._crew.step(lambda: gather(self._crew.comm, mine))):
            self.retake(round_number)
            return False
        return True

    def repeats_alone(self, round_number: int, attempt: int, tag: str) -> bool:
        """Whether this silo shows what it may have shown in this attempt before, if it did.

        It did where its own journal says so; where that is lost, where another's names it.
        """
        if self._lost_journal:
            return not any(entry.attempt == attempt for entry in self._opened(round_number))
        return self._own.get((round_number, attempt), tag) == tag

    def retake(self, round_number: int) -> None:
        """Let the next attempt at a round be under way."""
        self._more[round_number] = self._more.get(round_number, 0) + 1

    def permit(self, round_number: int, attempt: int, tag: str, silos: tuple[int, ...]) -> None:
        """See `Gate`. StoppedError where the sum must not be read."""
        for entry in self._opened(round_number):
            if entry.attempt == attempt and entry.silos != silos:
                raise StoppedError(
                    f"round {round_number} was about to be read of silos {entry.silos}, is now of {silos}, "
                    "and has the same noise: it stays unread; --resume takes it again with other noise",
                    rank=0,
                )
        self.note(round_number, attempt, tag, silos)

    def note(self, round_number: int, attempt: int, tag: str, silos: tuple[int, ...]) -> None:
        """`permit` where a sum over fewer silos would show nothing more, for each adds all its noise."""
        releases = self.price(len(silos))
        self._refuse_too_dear(round_number, silos, releases)
        self._journal.append(Entry(round_number, attempt, tag, silos, tuple(releases.items())))

    def _refuse_too_dear(
        self, round_number: int, silos: tuple[int, ...], releases: Mapping[Release, int]
    ) -> None:
        if self._config.max_epsilon is None:
            return
        ledger = self.ledger.copy()
        for release, count in releases.items():
            ledger.record(release, silos, count)
        epsilon = ledger.epsilon(self._config.delta, self._method)
        if epsilon > self._config.max_epsilon:
            raise StoppedError(
                f"round {round_number} over {len(silos)} silos would spend epsilon {epsilon:.4g}, more than "
                f"privacy.max_epsilon = {self._config.max_epsilon:g}: it stays unread",
                rank=0,
            )

    def record(self, round_number: int, silos: tuple[int, ...]) -> None:
        """The sum over these silos was read; collective.

        What a killed run may have shown of the round counts, too, of every silo that does not show the same.
        """
        self._count(tuple(self.price(len(silos)).items()), silos)
        opened = self._opened(round_number)
        if not opened:
            return
        crew, attempt = self._crew, self.attempt(round_number)
        shown = crew.step(lambda: dict(gather(crew.comm, [crew.number, attempt])))
        for entry in opened:
            others = tuple(silo for silo in entry.silos if shown.get(silo) != entry.attempt)
            self._count(entry.releases, others)

    def _count(self, releases: tuple[tuple[Release, int], ...], silos: tuple[int, ...]) -> None:
        for release, count in releases:
            self.ledger.record(release, silos, count)

    def _opened(self, round_number: int) -> list[Entry]:
        return [entry for entry in self._open if entry.round == round_number]

    def state(self) -> str:
        """For checkpoints, and for silos that come back."""
        return self.ledger.to_json()

    def restore(self, state: str) -> None:
        """Take up a `state()`."""
        self.ledger = Ledger.from_json(state)


def _union(entries: list[Entry]) -> list[Entry]:
    """One of each sum, whichever silos wrote of it, in one order."""
    found = {(entry.round, entry.attempt, entry.silos): entry for entry in entries}
    return [found[key] for key in sorted(found)]
