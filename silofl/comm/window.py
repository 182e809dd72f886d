"""Memory that the ranks of one node share: `SharedBuffer` over an MPI window."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARED_FOLDER = "/dev/shm"
SPARE_BYTES = 16 << 20


class MpiSharedBuffer:
    """See `SharedBuffer`. `barrier` is the communicator's own."""

    def __init__(self, window: Any, lengths: list[int], barrier: Any) -> None:
        self._window, self._barrier = window, barrier
        self._segments = [
            np.frombuffer(window.Shared_query(rank)[0], np.uint8, length) if length else np.empty(0, np.uint8)
            for rank, length in enumerate(lengths)
        ]

    @property
    def segments(self) -> list[NDArray[np.uint8]]:
        """Every rank's segment in rank order, uint8."""
        return self._segments

    def sync(self) -> None:
        """Collective fence and barrier."""
        self._window.Sync()
        self._barrier()
        self._window.Sync()

    def free(self) -> None:
        """Release it. Collective."""
        self._barrier()
        self._segments = []
        self._window.Unlock_all()
        self._window.Free()


def has_room(nbytes: int) -> bool:
    """Tell whether shared memory has `nbytes` free and some to spare: beyond it a write ends the process."""
    try:
        free = os.statvfs(SHARED_FOLDER)
    except OSError:
        return True
    return free.f_bavail * free.f_frsize >= nbytes + SPARE_BYTES


def allocate(mpi: Any, comm: Any, lengths: list[int], barrier: Any) -> MpiSharedBuffer:
    """Make one zeroed segment of lengths[rank] bytes a rank. Collective over ranks of one node."""
    window = mpi.Win.Allocate_shared(lengths[comm.rank], 1, comm=comm)
    window.Lock_all(mpi.MODE_NOCHECK)
    buffer = MpiSharedBuffer(window, lengths, barrier)
    buffer.segments[comm.rank][:] = 0
    buffer.sync()
    return buffer
