"""Synchronization of threads under `ThreadCommunicator`.

A `Rendezvous` numbers the collectives that each rank enters; the k-th of every rank form one `Collective`.
The rendezvous of one `Group` are revoked together when a rank fails. All groups of one run share a `World`:
one lock, one deadline, and the error that ends every wait.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from silofl.comm.protocol import RankFailedError


class PeerFailed(RuntimeError):
    """Another rank raised, so the collective that this one waits in can never complete."""


class World:
    """State that the ranks of one run share: deadline, first error, returned and failed ranks."""

    def __init__(self, deadline: float, hosts: tuple[int, ...] = ()) -> None:
        self.deadline = deadline
        self.hosts = hosts
        """The host that each rank of the start pretends to be on."""
        self.error: BaseException | None = None
        self.returned: set[int] = set()
        self.failed: set[int] = set()
        self.changed = threading.Condition()

    def abort(self, error: BaseException) -> None:
        """Keep the first error and wake every rank."""
        with self.changed:
            if self.error is None and not isinstance(error, PeerFailed):
                self.error = error
            self.changed.notify_all()

    def mark_returned(self, member: int) -> None:
        """Record that a rank has returned and will enter no more collectives."""
        with self.changed:
            self.returned.add(member)
            self.changed.notify_all()

    def mark_failed(self, member: int) -> None:
        """Record that a rank is dead."""
        with self.changed:
            self.failed.add(member)
            self.changed.notify_all()

    def wait_for_change(self, what: object, missing: list[int]) -> None:
        """Wait for a change of state; raise where none can help. The caller holds `changed`."""
        if self.error is not None:
            raise PeerFailed(f"another rank raised while this one waited in {what}") from self.error
        if self.returned.intersection(missing):
            raise RuntimeError(f"ranks {missing} returned without calling {what}, which others wait in")
        if time.monotonic() >= self.deadline:
            raise TimeoutError(f"ranks {missing} did not call {what} in time")
        left = self.deadline - time.monotonic()  # which may be infinite
        self.changed.wait(timeout=min(max(0.0, left), threading.TIMEOUT_MAX))


class Group:
    """Ranks, by silo id, that share rendezvous until one of them fails."""

    def __init__(self, world: World, members: tuple[int, ...]) -> None:
        self.world, self.members = world, members
        self.revoked = False
        self._callers: set[int] = set()
        self._successor: Group | None = None
        self._parts: list[Group] = []
        self.first = Rendezvous(self)
        """Rendezvous of the group's first communicator."""

    def revoke(self) -> None:
        """Fail every collective of this group from here on."""
        with self.world.changed:
            self.revoked = True
            for part in self._parts:
                part.revoked = True
            self.world.changed.notify_all()

    def part(self, members: tuple[int, ...]) -> Group:
        """Some of its ranks, as a group that fails with it."""
        with self.world.changed:
            self._parts.append(Group(self.world, members))
            return self._parts[-1]

    def successor(self, member: int) -> Group:
        """The group of the surviving ranks, once all of them have called."""
        world = self.world
        with world.changed:
            self._callers.add(member)
            world.changed.notify_all()
            while self._successor is None:
                surviving = [one for one in self.members if one not in world.failed]
                missing = sorted(set(surviving) - self._callers)
                if missing:
                    world.wait_for_change("recover", missing)
                else:
                    self._successor = Group(world, tuple(surviving))
            return self._successor


class Collective:
    """One collective: its signature, and the payload of every rank that has entered."""

    def __init__(self, rendezvous: Rendezvous, number: int, what: tuple[object, ...]) -> None:
        self.what = what
        self.payloads: dict[int, Any] = {}
        self.taken = 0
        self._rendezvous, self._number = rendezvous, number

    def wait(self) -> list[Any]:
        """Every rank's payload in rank order, once all have entered.

        Raises RankFailedError if a rank that has not entered has failed or the group is revoked, PeerFailed
        if a rank raised or returned, TimeoutError at the deadline.
        """
        group = self._rendezvous.group
        world, size = group.world, len(group.members)
        with world.changed:
            while len(self.payloads) < size:
                missing = [member for rank, member in enumerate(group.members) if rank not in self.payloads]
                if group.revoked or world.failed.intersection(missing):
                    raise RankFailedError(f"ranks {sorted(world.failed)} failed")
                world.wait_for_change(self.what[0], missing)
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
        """Contribute `payload` to this rank's next collective; ValueError if peers call another one there."""
        changed = self.group.world.changed
        with changed:
            if self.group.revoked:
                raise RankFailedError("this communicator was revoked because a rank failed")
            number = self._entered[rank]
            self._entered[rank] += 1
            collective = self.collectives.setdefault(number, Collective(self, number, what))
            if collective.what != what:
                raise ValueError(
                    f"rank {rank} calls {_name(what)} where another rank calls {_name(collective.what)}"
                )
            collective.payloads[rank] = payload
            if len(collective.payloads) == len(self._entered):  # nobody waits for less
                changed.notify_all()
            return collective


def _name(what: tuple[object, ...]) -> str:
    return f"{what[0]}({', '.join(map(str, what[1:]))})"
