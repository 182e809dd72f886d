"""Where threads meet: the rendezvous under `ThreadCommunicator`.

A `Room` numbers the collectives that each rank enters; the k-th of every rank form one `Meeting`. All
rooms of one run share a `Fate`: one lock, one deadline, and the error that ends every wait.
"""

from __future__ import annotations

import threading
import time
from typing import Any


class PeerFailed(RuntimeError):
    """Another rank failed, so the collective that this one waits in can never complete."""


class Fate:
    """What the ranks of one run share: their number, their deadline, the first error, who has left."""

    def __init__(self, size: int, deadline: float) -> None:
        self.size, self.deadline = size, deadline
        self.error: BaseException | None = None
        self.left: set[int] = set()
        self.changed = threading.Condition()

    def fail(self, error: BaseException) -> None:
        """Keep the first error and wake every rank."""
        with self.changed:
            if self.error is None and not isinstance(error, PeerFailed):
                self.error = error
            self.changed.notify_all()

    def leave(self, rank: int) -> None:
        """Note that `rank` has returned and will enter no more meetings."""
        with self.changed:
            self.left.add(rank)
            self.changed.notify_all()


class Meeting:
    """One collective: what it is, and the payload of every rank that has entered."""

    def __init__(self, room: Room, number: int, what: tuple[object, ...]) -> None:
        self.what = what
        self.payloads: dict[int, Any] = {}
        self.taken = 0
        self._room, self._number = room, number

    def wait(self) -> list[Any]:
        """Every rank's payload in rank order, once all have entered.

        Raises PeerFailed if a rank failed or left, TimeoutError at the deadline.
        """
        fate = self._room.fate
        with fate.changed:
            while len(self.payloads) < fate.size:
                self._give_up_if_hopeless(fate)
                fate.changed.wait(timeout=max(0.0, fate.deadline - time.monotonic()))
            self.taken += 1
            if self.taken == fate.size:
                del self._room.meetings[self._number]
            return [self.payloads[rank] for rank in range(fate.size)]

    def _give_up_if_hopeless(self, fate: Fate) -> None:
        if fate.error is not None:
            raise PeerFailed(f"another rank failed while this one waited in {self.what[0]}") from fate.error
        missing = sorted(set(range(fate.size)) - set(self.payloads))
        if fate.left.intersection(missing):
            raise RuntimeError(
                f"ranks {missing} returned without calling {self.what[0]}, which others wait in"
            )
        if time.monotonic() >= fate.deadline:
            raise TimeoutError(f"ranks {missing} did not call {self.what[0]} in time")


class Room:
    """The meetings of one communicator."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        self.meetings: dict[int, Meeting] = {}
        self._entered = [0] * fate.size

    def enter(self, rank: int, what: tuple[object, ...], payload: Any) -> Meeting:
        """Bring `payload` to this rank's next meeting; raise if the others there hold another one."""
        with self.fate.changed:
            number = self._entered[rank]
            self._entered[rank] += 1
            meeting = self.meetings.setdefault(number, Meeting(self, number, what))
            if meeting.what != what:
                raise ValueError(
                    f"rank {rank} calls {_name(what)} where another rank calls {_name(meeting.what)}"
                )
            meeting.payloads[rank] = payload
            self.fate.changed.notify_all()
            return meeting


def _name(what: tuple[object, ...]) -> str:
    return f"{what[0]}({', '.join(map(str, what[1:]))})"
