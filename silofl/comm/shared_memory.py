"""Shared memory of the ranks of one node: `SharedBuffer` over anonymous files (memfd) that all ranks map.

The files have no name, so nothing is left behind however a rank ends, and their size is not limited by
/dev/shm, which containers keep small. What a failed rank wrote stays readable for ranks that mapped it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_ADDRESS = struct.Struct(">QqqQQ")
NO_FILE = -1


class MappedBuffer:
    """See `SharedBuffer`. `barrier` is the communicator's own: MPI's barriers order memory on a node."""

    def __init__(self, segments: list[NDArray[np.uint8]], barrier: Callable[[], None]) -> None:
        self._segments, self._barrier = segments, barrier

    @property
    def segments(self) -> list[NDArray[np.uint8]]:
        """Every rank's segment in rank order, uint8."""
        return self._segments

    def sync(self) -> None:
        """Memory fence and barrier. Collective."""
        self._barrier()

    def free(self) -> None:
        """Release it; the memory goes when the last array over it does."""
        self._segments = []


class MemfdSegment:
    """Own segment of `nbytes` zeros, with the address by which other ranks of the node map it."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes, self._file = nbytes, NO_FILE
        try:
            self._file = os.memfd_create("silofl", os.MFD_CLOEXEC)
            os.ftruncate(self._file, nbytes)
        except (AttributeError, OSError):
            self.close()

    def address(self) -> bytes:
        """Length, process, descriptor and identity of the file, from which other ranks open it."""
        if self._file == NO_FILE:
            return _ADDRESS.pack(self._nbytes, os.getpid(), NO_FILE, 0, 0)
        status = os.fstat(self._file)
        return _ADDRESS.pack(self._nbytes, os.getpid(), self._file, status.st_dev, status.st_ino)

    def close(self) -> None:
        """Close the descriptor, once every rank has mapped the memory."""
        if self._file != NO_FILE:
            os.close(self._file)
            self._file = NO_FILE


def map_segments(addresses: list[bytes]) -> list[NDArray[np.uint8]] | None:
    """Map every rank's segment, uint8 (nbytes,) each; None where one cannot be mapped from here."""
    try:
        return [_map(address) for address in addresses]
    except OSError:
        return None  # no such kernel, another PID namespace, no permission: ranks send messages instead


def _map(address: bytes) -> NDArray[np.uint8]:
    nbytes, process, descriptor, device, inode = _ADDRESS.unpack(address)
    if nbytes == 0:
        return np.empty(0, np.uint8)
    if descriptor == NO_FILE:
        raise OSError("the other rank has no anonymous file")
    file = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if (status.st_dev, status.st_ino) != (device, inode):
            raise OSError("this process number means another process here")
        return np.frombuffer(mmap.mmap(file, nbytes), np.uint8)
    finally:
        os.close(file)
