"""A fault-tolerant process group: runs collective steps and retries them on the survivors after a failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from silofl.comm.collective_errors import allgather_object
from silofl.comm.protocol import Communicator, RankFailedError
from silofl.errors import SiloflError

Result = TypeVar("Result")


@dataclass(frozen=True)
class RankFailure:
    """One rank failure, as every surviving rank records it."""

    silos: tuple[int, ...]
    """Numbers of the ranks that failed, ascending."""
    seconds: float
    """From the first error on this rank until those that are left had met again."""
    early: bool = False
    """Whether nobody had `started` yet."""


class ElasticGroup:
    """The ranks that are left of a communicator. All calls are collective over those.

    A program of collectives is cut into steps that can be taken again from what they began with. When a rank
    is lost, the others meet and find out whether anybody had completed the step. If so, everybody has done
    all of it and they go on; else all take it again. So all ranks always agree on what is done, and a step
    that anybody has seen completed, such as the last before a secret is opened, is never taken again.

    Args:
        fault_tolerant: whether steps are taken again; otherwise RankFailedError goes to the caller.
        stop_reason: says, of a loss and of those who are left, why they do not go on; the same on every rank.

    Attributes:
        comm: the ranks that are left. A step reads it anew each time it is taken.
        losses: all there were, in order.
    """

    def __init__(
        self,
        comm: Communicator,
        *,
        fault_tolerant: bool = True,
        stop_reason: Callable[[RankFailure, tuple[int, ...]], SiloflError | None] = lambda failure, left: (
            None
        ),
    ) -> None:
        self.comm = comm
        self.failures: list[RankFailure] = []
        self._fault_tolerant, self._stop_reason = fault_tolerant and comm.resilient, stop_reason
        self._started = False
        self._completed = 0

    @property
    def members(self) -> tuple[int, ...]:
        """Numbers of the ranks that are left, ascending, as this rank knows them: see `agreed_members`."""
        return self.comm.members

    @property
    def fault_tolerant(self) -> bool:
        """Whether ranks can be lost and the others go on."""
        return self._fault_tolerant

    @property
    def silo_id(self) -> int:
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
        if not self._fault_tolerant:
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
            except RankFailedError:
                if self._resynchronize() == self._completed:
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

    def adopt(self, comm: Communicator, completed: int | None = None) -> None:
        """Go on with other ranks, such as some that came back; `completed` steps on a rank that is new."""
        self.comm = comm
        if completed is not None:
            self._completed = completed
        self.step(self._announce)

    def _announce(self) -> None:
        self.comm.notify_replaced()

    @property
    def completed(self) -> int:
        """How many steps are done; the same on every rank between steps."""
        return self._completed

    def _resynchronize(self) -> int:
        """Find out who is left; how many steps the furthest of them has completed."""
        began, before = time.perf_counter(), self.comm.members
        while True:
            self.comm = self.comm.recover()
            try:
                every = allgather_object(self.comm, [self._completed, self._started])
                latest: int = max(completed for completed, _ in every)
                self._started = any(started for _, started in every)
                self.comm.notify_replaced()
                break
            except RankFailedError:
                continue
        failed = tuple(member for member in before if member not in self.comm.members)
        if not failed:
            raise RuntimeError("a collective failed although no rank is lost; the MPI library says no more")
        self.failures.append(RankFailure(failed, time.perf_counter() - began, not self._started))
        error = self._stop_reason(self.failures[-1], self.comm.members)
        if error is not None:
            error.rank = 0
            raise error
        return latest
