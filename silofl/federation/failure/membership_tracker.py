"""Who is there: losses and returns from one line of a run to the next."""

from __future__ import annotations

from typing import Any

Silos = tuple[int, ...]


class MembershipTracker:
    """One rank's tracker of the silos; all ranks have the same."""

    def __init__(self, present: Silos) -> None:
        self._present = present
        self._lost: list[int] = []
        self._returned: list[int] = []

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> MembershipTracker:
        """From another rank's `state`, on a rank that comes back."""
        tracker = cls(tuple(state["present"]))
        tracker._lost, tracker._returned = list(state["lost"]), list(state["returned"])
        return tracker

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"present": self._present, "lost": self._lost, "returned": self._returned}

    def mark_failed(self, left: Silos) -> Silos:
        """Only `left` are there now; who was until then, as far as anybody noted."""
        lost = tuple(silo for silo in self._present if silo not in left)
        self._lost += lost
        self._present = tuple(silo for silo in self._present if silo in left)
        return lost

    def mark_rejoined(self, silos: Silos) -> None:
        """These came back."""
        self._returned += silos
        self._present = tuple(sorted({*self._present, *silos}))

    def changes(self) -> tuple[Silos, Silos]:
        """Who was lost and who came back since this was last asked."""
        lost, returned = tuple(sorted(self._lost)), tuple(self._returned)
        self._lost, self._returned = [], []
        return lost, returned
