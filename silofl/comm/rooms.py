"""Where threads meet: the rendezvous under `ThreadCommunicator`.

A `Room` numbers the collectives that each rank enters; the k-th of every rank form one `Meeting`. The rooms
of one `Group` are given up together when a rank is lost. All groups of one run share a `Fate`: one lock, one
deadline, and the error that ends every wait.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from silofl.comm.lost import RanksLost


class PeerFailed(RuntimeError):
    """Another rank failed, so the collective that this one waits in can never complete."""


class Fate:
    """What the ranks of one run share: their deadline, the first error, who has left and who was lost."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.error: BaseException | None = None
        self.left: set[int] = set()
        self.lost: set[int] = set()
        self.changed = threading.Condition()

    def fail(self, error: BaseException) -> None:
        """Keep the first error and wake every rank."""
        with self.changed:
            if self.error is None and not isinstance(error, PeerFailed):
                self.error = error
            self.changed.notify_all()

    def leave(self, number: int) -> None:
        """Note that a rank has returned and will enter no more meetings."""
        with self.changed:
            self.left.add(number)
            self.changed.notify_all()

    def lose(self, number: int) -> None:
        """Note that a rank is dead."""
        with self.changed:
            self.lost.add(number)
            self.changed.notify_all()

    def pause(self, what: object, missing: list[int]) -> None:
        """Wait for news; raise where none can help. Holds `changed`."""
        if self.error is not None:
            raise PeerFailed(f"another rank failed while this one waited in {what}") from self.error
        if self.left.intersection(missing):
            raise RuntimeError(f"ranks {missing} returned without calling {what}, which others wait in")
        if time.monotonic() >= self.deadline:
            raise TimeoutError(f"ranks {missing} did not call {what} in time")
        self.changed.wait(timeout=max(0.0, self.deadline - time.monotonic()))


class Group:
    """The ranks, by the number that each had at the start, that share rooms until one of them is lost."""

    def __init__(self, fate: Fate, members: tuple[int, ...]) -> None:
        self.fate, self.members = fate, members
        self.revoked = False
        self._callers: set[int] = set()
        self._successor: Group | None = None
        self.first = Room(self)
        """Where the first communicator of the group meets."""

    def revoke(self) -> None:
        """Let no meeting of this group complete any more."""
        with self.fate.changed:
            self.revoked = True
            self.fate.changed.notify_all()

    def successor(self, number: int) -> Group:
        """The group of those that are left, once all of them have called."""
        fate = self.fate
        with fate.changed:
            self._callers.add(number)
            fate.changed.notify_all()
            while self._successor is None:
                living = [member for member in self.members if member not in fate.lost]
                missing = sorted(set(living) - self._callers)
                if missing:
                    fate.pause("recover", missing)
                else:
                    self._successor = Group(fate, tuple(living))
            return self._successor


class Meeting:
    """One collective: what it is, and the payload of every rank that has entered."""

    def __init__(self, room: Room, number: int, what: tuple[object, ...]) -> None:
        self.what = what
        self.payloads: dict[int, Any] = {}
        self.taken = 0
        self._room, self._number = room, number

    def wait(self) -> list[Any]:
        """Every rank's payload in rank order, once all have entered.

        Raises RanksLost if one that has not entered is dead or the group is given up, PeerFailed if a rank
        failed or left, TimeoutError at the deadline.
        """
        group = self._room.group
        fate, size = group.fate, len(group.members)
        with fate.changed:
            while len(self.payloads) < size:
                missing = [member for rank, member in enumerate(group.members) if rank not in self.payloads]
                if group.revoked or fate.lost.intersection(missing):
                    raise RanksLost(f"ranks {sorted(fate.lost)} are lost")
                fate.pause(self.what[0], missing)
            self.taken += 1
            if self.taken == size:
                del self._room.meetings[self._number]
            return [self.payloads[rank] for rank in range(size)]


class Room:
    """The meetings of one communicator."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.meetings: dict[int, Meeting] = {}
        self._entered = [0] * len(group.members)

    def enter(self, rank: int, what: tuple[object, ...], payload: Any) -> Meeting:
        """Bring `payload` to this rank's next meeting; raise if the others there hold another one."""
        changed = self.group.fate.changed
        with changed:
            if self.group.revoked:
                raise RanksLost("this communicator was given up because a rank was lost")
            number = self._entered[rank]
            self._entered[rank] += 1
            meeting = self.meetings.setdefault(number, Meeting(self, number, what))
            if meeting.what != what:
                raise ValueError(
                    f"rank {rank} calls {_name(what)} where another rank calls {_name(meeting.what)}"
                )
            meeting.payloads[rank] = payload
            changed.notify_all()
            return meeting


def _name(what: tuple[object, ...]) -> str:
    return f"{what[0]}({', '.join(map(str, what[1:]))})"
