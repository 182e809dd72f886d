"""Ranks that go on without others, which stay until those have ended: MPI counts all processes to the end.

Each rank that goes on tells each that is left out when it ends; one that died needs not. `Shutdown` does it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from silofl.launcher import watchdog

if TYPE_CHECKING:
    from silofl.comm.mpi import MpiCommunicator

POLL_S = 0.05


@dataclass
class Parting:
    """One rank's side of it.

    Attributes:
        comm: all ranks, those that are left out among them.
        others: of a rank that goes on, those that are left out; of one of these, those that go on.
        goes_on: which of the two this rank is.
    """

    comm: MpiCommunicator
    others: tuple[int, ...]
    goes_on: bool
    _sends: tuple[Any, ...] = ()

    def tell_end(self) -> None:
        """Let the ranks that are left out end, too. Not collective; on others it does nothing."""
        if self.goes_on and not self._sends:
            byte = np.zeros(1, np.uint8)
            self._sends = (byte, *(self.comm.handle.Isend(byte, rank) for rank in self.others))

    def wait(self) -> None:
        """On a rank that is left out: return when all others have ended."""
        error, byte = self.comm.mpi_error, np.zeros((len(self.others), 1), np.uint8)
        with watchdog.waiting():
            waits = [self.comm.handle.Irecv(own, rank) for own, rank in zip(byte, self.others, strict=True)]
            while waits:
                time.sleep(POLL_S)
                waits = [one for one in waits if not _is_over(one, error)]


def _is_over(request: Any, error: type[BaseException]) -> bool:
    try:
        return bool(request.Test())
    except error:  # it died
        return True


def part(comm: MpiCommunicator, apart: Any, members: tuple[int, ...]) -> MpiCommunicator | None:
    """See `Communicator.part`; `apart` is of the ranks that go on, or of the others."""
    goes_on = comm.members[comm.rank] in members
    everybody = comm.duplicate().outlast_failures()
    others = tuple(rank for rank, silo in enumerate(comm.members) if (silo in members) != goes_on)
    parting = Parting(everybody, others, goes_on)
    comm.keep_parting(parting)
    if not goes_on:
        return None
    successor = comm.successor(apart, members)
    successor.keep_parting(parting)
    return successor
