"""Membership of a run: which silos failed and which rejoined, from one line of metrics to the next."""

from __future__ import annotations

from typing import Any

Silos = tuple[int, ...]


class MembershipTracker:
    """One rank's list of the silos that are there; all ranks have the same."""

    def __init__(self, present: Silos) -> None:
        self._present = present
        self._failed: list[int] = []
        self._rejoined: list[int] = []

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> MembershipTracker:
        """From another rank's `state`, on a rank that rejoins."""
        tracker = cls(tuple(state["present"]))
        tracker._failed, tracker._rejoined = list(state["failed"]), list(state["rejoined"])
        return tracker

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"present": self._present, "failed": self._failed, "rejoined": self._rejoined}

    def mark_failed(self, survivors: Silos) -> Silos:
        """Only `survivors` are there now; the silos that failed since this was last noted."""
        failed = tuple(silo for silo in self._present if silo not in survivors)
        self._failed += failed
        self._present = tuple(silo for silo in self._present if silo in survivors)
        return failed

    def mark_rejoined(self, silos: Silos) -> None:
        """These silos came back."""
        self._rejoined += silos
        self._present = tuple(sorted({*self._present, *silos}))

    def changes(self) -> tuple[Silos, Silos]:
        """Silos that failed and that rejoined since this was last asked."""
        failed, rejoined = tuple(sorted(self._failed)), tuple(self._rejoined)
        self._failed, self._rejoined = [], []
        return failed, rejoined
