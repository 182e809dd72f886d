"""What a silo gives to others in a run: a communicator that keeps it, below everything that masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.shards import slice_bounds


class WireTap:
    """A communicator whose rows are kept as they go out; everything else is that of `comm`.

    Ranks must send messages, as they do between hosts: of threads, give `run_in_threads` one host a rank.

    Attributes:
        rows: (n, width) of each all-to-all, row j for rank j, in their order.
    """

    def __init__(self, comm: Any, rows: list[NDArray[Any]] | None = None) -> None:
        self._comm, self.rows = comm, [] if rows is None else rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def duplicate(self) -> WireTap:
        """A communicator of its own, kept likewise."""
        return WireTap(self._comm.duplicate(), self.rows)

    def recover(self) -> WireTap:
        """Of the surviving ranks, kept likewise."""
        return WireTap(self._comm.recover(), self.rows)

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """Rows to their servers."""
        self.rows.append(send.copy())
        self._comm.alltoall(send, receive)

    def vectors(self, size: int) -> list[NDArray[Any]]:
        """What went out for a vector (size,), slices one behind the other: values in the clear, or words.

        Of sums that went out in one piece, whose first vector it is.
        """
        return [_joined(row, size) for row in self.rows if row.ndim == 2 and row.size >= size]


def _joined(row: NDArray[Any], size: int) -> NDArray[Any]:
    bounds = slice_bounds(size, len(row))
    parts = [one[: end - start] for one, start, end in zip(row, bounds, bounds[1:], strict=False)]
    return np.concatenate(parts)
