"""What a communicator shares with its duplicates and with those that take its place after a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Member = TypeVar("Member")


class Family(Generic[Member]):
    """Communicators of one set of ranks, which are given up together, and who follows their changes."""

    def __init__(self, earlier: Family[Member] | None = None) -> None:
        self.alive: list[Member] = []
        """Communicators that were not freed."""
        self.changed = earlier is not None
        """Whether this family took the place of an earlier one."""
        self.followers: list[Callable[[Member], None]] = [] if earlier is None else earlier.followers
        """Told each communicator that takes a family's place, on all of its ranks; may call collectives."""
        self.on_mark: Callable[[str], None] | None = None if earlier is None else earlier.on_mark

        self.corrupting = False
        """Whether the next message is to be altered on its way out: a rehearsal of forgery."""

    def outgoing(self, payload: bytes) -> bytes:
        """The payload as it is sent."""
        if self.corrupting and payload:
            self.corrupting = False
            return payload[:-1] + bytes([payload[-1] ^ 1])
        return payload


class Relative(Generic[Member]):
    """What a communicator does by its family alone; see `Communicator`."""

    _family: Family[Member]

    def follow(self, follower: Callable[[Member], None]) -> None:
        """Let `follower` hear of each communicator that takes this one's place; see `announce`."""
        self._family.followers.append(follower)

    def announce(self) -> None:
        """Tell all followers of this communicator. Collective, as followers may be."""
        for follower in self._family.followers:
            follower(self)  # type: ignore[arg-type]

    def mark(self, step: str) -> None:
        """Tell that this rank reaches a named step; see `Communicator.mark`."""
        if self._family.on_mark is not None:
            self._family.on_mark(step)

    def on_mark(self, note: Callable[[str], None]) -> None:
        """See `Communicator.on_mark`."""
        self._family.on_mark = note

    def corrupt_next(self) -> None:
        """See `Communicator.corrupt_next`."""
        self._family.corrupting = True
