"""What sceptics compare with: MPI's own reductions, called as any mpi4py program calls them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.comm import mpi_library


class NativeReductions:
    """Sums over all ranks by the library itself, blocking, on a COMM_WORLD of its own; collective
    to make.
    """

    def __init__(self) -> None:
        self._comm = mpi_library.load().COMM_WORLD.Dup()

    def allreduce(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        """`MPI_Allreduce` of the array's own type."""
        self._comm.Allreduce(x, out)

    def pickled_allreduce(self, x: NDArray[Any]) -> NDArray[Any]:
        """mpi4py's lower-case `allreduce`, which pickles the array."""
        total: NDArray[Any] = np.asarray(self._comm.allreduce(x))
        return total

    def free(self) -> None:
        """Release it; collective."""
        self._comm.Free()
