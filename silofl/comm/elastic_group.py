"""A fault-tolerant process group: runs collective steps and retries them on the survivors after a failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from silofl.comm.collective_errors import allgather_parsed
from silofl.comm.protocol import Communicator, RankFailedError
from silofl.errors import ProtocolError, SiloflError

Result = TypeVar("Result")


@dataclass(frozen=True)
class RankFailure:
    """One rank failure, as every surviving rank records it."""

    silos: tuple[int, ...]
    """Silo ids of the ranks that failed, ascending."""
    seconds: float
    """Recovery time: from the first error on this rank until the surviving ranks were connected again."""
    early: bool = False
    """Whether no rank had called `started` yet."""


StopReason = Callable[[RankFailure, tuple[int, ...]], SiloflError | None]


def _never_stop(failure: RankFailure, survivors: tuple[int, ...]) -> None:
    """Go on after every failure."""


class ElasticGroup:
    """A communicator that shrinks when ranks fail. All calls are collective over the surviving ranks.

    A program of collectives is cut into steps that can be run again from their inputs. When a rank fails in
    a step, the survivors find out whether any rank had completed it. If one had, every rank has contributed
    all it has to and they go on; else all run it again. So all ranks always agree on what is done, and a step
    that any rank has seen completed, such as the last before a secret is opened, is never run again.

    Args:
        fault_tolerant: whether steps are retried; otherwise RankFailedError goes to the caller.
        stop_reason: for a failure and the surviving silo ids, the error with which they stop instead of going
            on, or None; the same on every rank.

    Attributes:
        comm: communicator of the surviving ranks. A step reads it anew each time it is run.
        failures: all there were, in order.
    """

    def __init__(
        self, comm: Communicator, *, fault_tolerant: bool = True, stop_reason: StopReason = _never_stop
    ) -> None:
        self.comm = comm
        self.failures: list[RankFailure] = []
        self._fault_tolerant, self._stop_reason = fault_tolerant and comm.resilient, stop_reason
        self._started = False
        self._completed = 0

    @property
    def members(self) -> tuple[int, ...]:
        """Silo ids of the surviving ranks, ascending, as this rank knows them: see `agreed_members`."""
        return self.comm.members

    @property
    def fault_tolerant(self) -> bool:
        """Whether the surviving ranks go on when one fails."""
        return self._fault_tolerant

    @property
    def silo_id(self) -> int:
        """This rank's own silo id."""
        return self.comm.members[self.comm.rank]

    @property
    def completed(self) -> int:
        """Number of completed steps; the same on every rank between steps."""
        return self._completed

    def started(self) -> None:
        """End the set-up phase, for all ranks as soon as one calls it: later failures are not `early`."""
        self._started = True

    def step(self, work: Callable[[], Result]) -> Result:
        """Run `work`, again and again until all surviving ranks have completed it; return its result.

        It may run several times, with fewer ranks in `comm` each time. A SiloflError that all ranks raise
        together is a result like another. A group that is not fault-tolerant just runs it.
        """
        if not self._fault_tolerant:
            return work()
        while True:
            error: SiloflError | None = None
            result: Result | None = None
            finished = False
            try:
                try:
                    result = work()
                except SiloflError as raised:
                    if raised.rank is None:
                        raise
                    error = raised
                finished = True
                self.comm.barrier()
                self._completed += 1
            except RankFailedError:
                if self._resynchronize(finished) == self._completed:
                    continue
                self._completed += 1
            if error is not None:
                raise error
            return result  # type: ignore[return-value]

    def agreed_members(self) -> tuple[int, ...]:
        """The members, the same on every rank, for decisions between two steps.

        `members` may differ from rank to rank there, for a rank may not have seen the latest failure yet.
        """
        return self.step(lambda: self.comm.members)

    def adopt(self, comm: Communicator, completed: int | None = None) -> None:
        """Go on with other ranks, such as rejoined ones; a new rank passes how many steps are `completed`."""
        self.comm = comm
        if completed is not None:
            self._completed = completed
        self.step(self._notify_replaced)

    def _notify_replaced(self) -> None:
        self.comm.notify_replaced()

    def _resynchronize(self, finished: bool) -> int:
        """Recover the communicator; return the number of steps that the furthest survivor has completed.

        `finished` says whether this rank has done all of the step, but for the barrier after it.
        """
        began, before = time.perf_counter(), self.comm.members
        while True:
            self.comm = self.comm.recover()
            try:
                latest = self._exchange_progress(finished)
                break
            except RankFailedError:
                continue
        failed = tuple(member for member in before if member not in self.comm.members)
        if not failed:
            raise RuntimeError("a collective failed although no rank did; the MPI library says no more")
        self.failures.append(RankFailure(failed, time.perf_counter() - began, not self._started))
        error = self._stop_reason(self.failures[-1], self.comm.members)
        if error is not None:
            error.rank = 0
            raise error
        return latest

    def _exchange_progress(self, finished: bool) -> int:
        told = [self._completed, self._started, finished]
        progress = allgather_parsed(self.comm, told, _Progress.told, "its progress")
        _refuse_impossible(progress, self.comm.members)
        self._started = any(one.started for one in progress)
        self.comm.notify_replaced()
        return max(one.completed for one in progress)


@dataclass(frozen=True)
class _Progress:
    """What a rank tells of itself after a failure."""

    completed: int
    started: bool
    finished: bool

    @classmethod
    def told(cls, value: Any) -> _Progress:
        completed, started, finished = value
        return cls(int(completed), bool(started), bool(finished))


def _refuse_impossible(progress: list[_Progress], silos: tuple[int, ...]) -> None:
    """Raise ProtocolError, the same on every rank, where a step is over for one that another is still in.

    The barrier after a step lets nobody out before all are there. Whoever says otherwise would have the
    others take a sum for complete that is not.
    """
    least = min(one.completed for one in progress)
    ahead = [silo for silo, one in zip(silos, progress, strict=True) if one.completed > least]
    within = [
        silo for silo, one in zip(silos, progress, strict=True) if one.completed == least and not one.finished
    ]
    if ahead and (within or max(one.completed for one in progress) > least + 1):
        behind = (within or [silo for silo in silos if silo not in ahead])[0]
        raise ProtocolError(
            f"silo {ahead[0]} tells that a step is over which silo {behind} tells that it is in: one of them "
            "is wrong",
            sender=ahead[0],
            rank=0,
        )
