"""The ranks that a run has at the moment, and its steps, which they repeat when one of them is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from silofl.comm.lost import RanksLost
from silofl.comm.protocol import Communicator
from silofl.comm.verdict import exchange
from silofl.errors import SiloflError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Loss:
    """What happened when ranks were lost."""

    lost: tuple[int, ...]
    """Their numbers, ascending."""
    seconds: float
    """From the first error on this rank until those that are left had met again."""
    early: bool = False
    """Whether nobody had `started` yet."""


class Crew:
    """The ranks that are left of a communicator. All calls are collective over those.

    A program of collectives is cut into steps that can be taken again from what they began with. When a rank
    is lost, the others meet and find out whether anybody had completed the step. If so, everybody has done
    all of it and they go on; else all take it again. So all ranks always agree on what is done, and a step
    that anybody has seen completed, such as the last before a secret is opened, is never taken again.

    Args:
        repeats: whether steps are taken again; otherwise RanksLost goes to the caller.
        refuse: says, of a loss and of those who are left, why they do not go on; the same on every rank.

    Attributes:
        comm: the ranks that are left. A step reads it anew each time it is taken.
        losses: all there were, in order.
    """

    def __init__(
        self,
        comm: Communicator,
        *,
        repeats: bool = True,
        refuse: Callable[[Loss, tuple[int, ...]], SiloflError | None] = lambda loss, left: None,
    ) -> None:
        self.comm = comm
        self.losses: list[Loss] = []
        self._repeats, self._refuse = repeats and comm.resilient, refuse
        self._started = False
        self._completed = 0

    @property
    def members(self) -> tuple[int, ...]:
        """Numbers of the ranks that are left, ascending, as this rank knows them: see `agreed_members`."""
        return self.comm.members

    @property
    def repeats(self) -> bool:
        """Whether ranks can be lost and the others go on."""
        return self._repeats

    @property
    def number(self) -> int:
        """This rank's own number."""
        return self.comm.members[self.comm.rank]

    def started(self) -> None:
        """Set-up is over, for all ranks as soon as one says so: losses from here on are not `early`."""
        self._started = True

    def step(self, work: Callable[[], Result]) -> Result:
        """Take a step: `work`, again and again until those that are left have all completed it.

        `work` may run several times, with fewer ranks in `comm` each time. A SiloflError that all ranks raise
        together is a result like another. Where ranks cannot be lost it just runs.
        """
        if not self._repeats:
            return work()
        while True:
            error: SiloflError | None = None
            result: Result | None = None
            try:
                try:
                    result = work()
                except SiloflError as raised:
                    if raised.rank is None:
                        raise
                    error = raised
                self.comm.barrier()
                self._completed += 1
            except RanksLost:
                if self._meet() == self._completed:
                    continue
                self._completed += 1
            if error is not None:
                raise error
            return result  # type: ignore[return-value]

    def agreed_members(self) -> tuple[int, ...]:
        """The members, the same on every rank: what they may branch on between two steps.

        `members` may differ from rank to rank there, for one may know of a loss that another has yet to meet.
        """
        return self.step(lambda: self.comm.members)

    def replace(self, comm: Communicator, completed: int | None = None) -> None:
        """Go on with other ranks, such as some that came back; `completed` steps on a rank that is new."""
        self.comm = comm
        if completed is not None:
            self._completed = completed
        self.step(self._announce)

    def _announce(self) -> None:
        self.comm.announce()

    @property
    def completed(self) -> int:
        """How many steps are done; the same on every rank between steps."""
        return self._completed

    def _meet(self) -> int:
        """Find out who is left; how many steps the furthest of them has completed."""
        began, before = time.perf_counter(), self.comm.members
        while True:
            self.comm = self.comm.recover()
            try:
                every = exchange(self.comm, [self._completed, self._started])
                latest: int = max(completed for completed, _ in every)
                self._started = any(started for _, started in every)
                self.comm.announce()
                break
            except RanksLost:
                continue
        lost = tuple(member for member in before if member not in self.comm.members)
        if not lost:
            raise RuntimeError("a collective failed although no rank is lost; the MPI library says no more")
        self.losses.append(Loss(lost, time.perf_counter() - began, not self._started))
        error = self._refuse(self.losses[-1], self.comm.members)
        if error is not None:
            error.rank = 0
            raise error
        return latest
