"""Where threads meet: the rendezvous under `ThreadCommunicator`.

A `Rendezvous` numbers the collectives that each rank enters; the k-th of every rank form one `Collective`.
The rendezvous of one `Group` are given up together when a rank is lost. All groups of one run share a
`World`: one lock, one deadline, and the error that ends every wait.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from silofl.comm.protocol import RankFailedError


class PeerFailed(RuntimeError):
    """Another rank failed, so the collective that this one waits in can never complete."""


class World:
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
        """Note that a rank has returned and will enter no more collectives."""
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
    """The ranks, by their first number, that share rendezvous until one of them fails."""

    def __init__(self, world: World, members: tuple[int, ...]) -> None:
        self.world, self.members = world, members
        self.revoked = False
        self._callers: set[int] = set()
        self._successor: Group | None = None
        self.first = Rendezvous(self)
        """Where the first communicator of the group meets."""

    def revoke(self) -> None:
        """Let no collective of this group complete any more."""
        with self.world.changed:
            self.revoked = True
            self.world.changed.notify_all()

    def successor(self, number: int) -> Group:
        """The group of those that are left, once all of them have called."""
        world = self.world
        with world.changed:
            self._callers.add(number)
            world.changed.notify_all()
            while self._successor is None:
                living = [member for member in self.members if member not in world.lost]
                missing = sorted(set(living) - self._callers)
                if missing:
                    world.pause("recover", missing)
                else:
                    self._successor = Group(world, tuple(living))
            return self._successor


class Collective:
    """One collective: what it is, and the payload of every rank that has entered."""

    def __init__(self, rendezvous: Rendezvous, number: int, what: tuple[object, ...]) -> None:
        self.what = what
        self.payloads: dict[int, Any] = {}
        self.taken = 0
        self._rendezvous, self._number = rendezvous, number

    def wait(self) -> list[Any]:
        """Every rank's payload in rank order, once all have entered.

        Raises RankFailedError if one that has not entered is dead or the group is given up, PeerFailed if a
        rank failed or left, TimeoutError at the deadline.
        """
        group = self._rendezvous.group
        world, size = group.world, len(group.members)
        with world.changed:
            while len(self.payloads) < size:
                missing = [member for rank, member in enumerate(group.members) if rank not in self.payloads]
                if group.revoked or world.lost.intersection(missing):
                    raise RankFailedError(f"ranks {sorted(world.lost)} are lost")
                world.pause(self.what[0], missing)
            self.taken += 1
            if self.taken == size:
                del self._rendezvous.collectives[self._number]
            return [self.payloads[rank] for rank in range(size)]


class Rendezvous:
    """The collectives of one communicator."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.collectives: dict[int, Collective] = {}
        self._entered = [0] * len(group.members)

    def enter(self, rank: int, what: tuple[object, ...], payload: Any) -> Collective:
        """Bring `payload` to this rank's next collective; raise if the others there hold another one."""
        changed = self.group.world.changed
        with changed:
            if self.group.revoked:
                raise RankFailedError("this communicator was given up because a rank was lost")
            number = self._entered[rank]
            self._entered[rank] += 1
            collective = self.collectives.setdefault(number, Collective(self, number, what))
            if collective.what != what:
                raise ValueError(
                    f"rank {rank} calls {_name(what)} where another rank calls {_name(collective.what)}"
                )
            collective.payloads[rank] = payload
            changed.notify_all()
            return collective


def _name(what: tuple[object, ...]) -> str:
    return f"{what[0]}({', '.join(map(str, what[1:]))})"
