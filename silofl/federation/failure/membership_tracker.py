"""Membership of a run: which silos failed and which rejoined, from one line of metrics to the next."""

from __future__ import annotations

from silofl.federation.stateful import Json, Part, State

Silos = tuple[int, ...]


class MembershipTracker(Part):
    """One rank's list of the silos that are there; all ranks have the same.

    Attributes:
        resync: whether a silo rejoined since the last round, with a state of its own that may be older than
            what shared vectors hold of it: see `strategies.base.LocalRound.resync`. Kept in checkpoints: a
            run that is killed before that round is resumed to it.
    """

    name = "membership"

    def __init__(self, present: Silos) -> None:
        self._present = present
        self._failed: list[int] = []
        self._rejoined: list[int] = []
        self.resync = False

    def state(self) -> State:
        """See `Stateful`."""
        return {"resync": self.resync}

    def restore(self, state: State | None, committed_by: Silos, *, member: bool) -> None:
        """See `Stateful`. Silos of this job that did not commit the round have rejoined."""
        away = tuple(silo for silo in self._present if silo not in committed_by)
        self._present = committed_by
        self.resync = state is not None and member and state["resync"]
        self.mark_rejoined(away)

    def rejoin_state(self) -> Json:
        """See `Stateful`. `mark_rejoined` decides on a resync on all ranks, the rejoined one too."""
        return {"present": self._present, "failed": self._failed, "rejoined": self._rejoined}

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`."""
        self._present = tuple(told["present"])
        self._failed, self._rejoined = list(told["failed"]), list(told["rejoined"])

    def mark_failed(self, survivors: Silos) -> Silos:
        """Only `survivors` are there now; the silos that failed since this was last noted."""
        failed = tuple(silo for silo in self._present if silo not in survivors)
        self._failed += failed
        self._present = tuple(silo for silo in self._present if silo in survivors)
        return failed

    def mark_rejoined(self, silos: Silos) -> None:
        """These silos rejoined."""
        self.resync = self.resync or bool(silos)
        self._rejoined += silos
        self._present = tuple(sorted({*self._present, *silos}))

    def changes(self) -> tuple[Silos, Silos]:
        """Silos that failed and silos that rejoined since this was last asked."""
        failed, rejoined = tuple(sorted(self._failed)), tuple(self._rejoined)
        self._failed, self._rejoined = [], []
        return failed, rejoined
