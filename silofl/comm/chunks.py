"""Cutting of messages that are too long for one MPI call.

Open MPI 5 takes 32-bit counts and displacements and mpi4py 4.1 refuses more. What is longer than a chunk
moves in several calls. The rows of an alltoall keep their places by a datatype whose extent, which is
64 bits wide, is a whole row: columns [a, b) of every row are then one element a rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class AlltoallChunk(NamedTuple):
    """Buffer specifications of one Alltoall, and the datatype to free after it (None: a basic one)."""

    send: list[Any]
    receive: list[Any]
    datatype: Any


def as_bytes(array: NDArray[Any]) -> Bytes:
    """View a C-contiguous array of any dtype as uint8 (nbytes,)."""
    return array.reshape(-1).view(np.uint8) if array.nbytes else np.empty(0, np.uint8)


def split(array: Bytes, chunk: int) -> Iterator[Bytes]:
    """Cut uint8 (c,) into views of at most `chunk` bytes."""
    for start in range(0, array.size, chunk):
        yield array[start : start + chunk]


def alltoall_chunks(
    mpi: Any, send: NDArray[Any], receive: NDArray[Any], chunk: int
) -> Iterator[AlltoallChunk]:
    """Cut an alltoall of `send` (n, c) into `receive` (n, c) into calls of at most `chunk` bytes a rank."""
    width = send.nbytes // send.shape[0]
    out, into = as_bytes(send), as_bytes(receive)
    if width <= chunk:
        yield AlltoallChunk([out, width, mpi.BYTE], [into, width, mpi.BYTE], None)
        return
    for start in range(0, width, chunk):
        datatype = _strided(mpi, min(chunk, width - start), width)
        yield AlltoallChunk([out[start:], 1, datatype], [into[start:], 1, datatype], datatype)


def displacements(lengths: Sequence[int]) -> list[int]:
    """Offset of each of consecutive parts."""
    return [0, *np.cumsum(lengths, dtype=np.int64).tolist()][:-1]


def parts(joined: Bytes, lengths: Sequence[int]) -> list[bytes]:
    """Consecutive parts of uint8 (sum(lengths),)."""
    starts = displacements(lengths)
    return [joined[at : at + length].tobytes() for at, length in zip(starts, lengths, strict=True)]


def columns(mpi: Any, width: int, chunk: int) -> Iterator[tuple[int, list[Any]]]:
    """Cut rows of `width` bytes into calls of at most `chunk` bytes a row: offsets, and [count, datatype].

    The datatype is a column, of which the next element lies in the next row; freed behind its call.
    """
    if width <= chunk:
        yield 0, [width, mpi.BYTE]
        return
    for start in range(0, width, chunk):
        datatype = _strided(mpi, min(chunk, width - start), width)
        yield start, [1, datatype]
        datatype.Free()


def _strided(mpi: Any, length: int, extent: int) -> Any:
    block = mpi.BYTE.Create_contiguous(length)
    datatype = block.Create_resized(0, extent)
    block.Free()
    return datatype.Commit()
