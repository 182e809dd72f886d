"""Which silos are in a round's sum: with data, there, and drawn; or those that it was opened for before."""

from __future__ import annotations

from dataclasses import dataclass

from silofl.aggregation.base import Claim
from silofl.errors import StoppedError
from silofl.federation.arrivals import Arrivals
from silofl.federation.failure.membership_tracker import MembershipTracker
from silofl.federation.openings import Openings
from silofl.federation.participation import Participation

Silos = tuple[int, ...]


@dataclass(frozen=True)
class Attendance:
    """The same on every rank.

    Attributes:
        openings: which silos rounds were opened for; None where updates are added up in the clear.
        draws: which silos are drawn for a round, or have trained; None where all take part.
        membership: whether the next round is a resync.
        coordinators: ranks without data, which are in no sum.
    """

    openings: Openings | None
    draws: Participation | Arrivals | None
    membership: MembershipTracker
    coordinators: Silos = ()

    def absent(self, round_number: int, members: Silos) -> Silos:
        """Which of `members` sit a round out. StoppedError where it must stay closed.

        Where it was opened before they are those of then. In a resync none does that could take part.
        """
        if self.openings is not None and self.openings.was_opened(round_number):
            return self.openings.absent(round_number, members)
        drawn = self.drawn(round_number, members)
        return tuple(silo for silo in members if silo not in drawn)

    def drawn(self, round_number: int, members: Silos) -> Silos:
        """Which of `members` a round is opened for that was not opened before."""
        silos = tuple(silo for silo in members if silo not in self.coordinators)
        if self.draws is None or (self.membership.resync and self.draws.all_in_resync):
            return silos
        return self.draws.drawn(round_number, silos)

    def authorize(self, round_number: int, silos: Silos) -> Claim | None:
        """See `Authorizer`."""
        if self.draws is not None:
            self.draws.refuse_too_few(round_number, silos)
        if self.openings is None:
            return None
        if self.coordinators and len(silos) < self.openings.fewest:  # no update hides behind a coordinator
            raise StoppedError(
                f"round {round_number}: {len(silos)} silos with data are left, and a sum is over "
                f"{self.openings.fewest} at least: --resume goes on from the last committed round",
                rank=0,
            )
        return self.openings.authorize(round_number, silos)
