"""What an aggregation is: every silo's vector in, this rank's slice of their weighted mean out."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from silofl.types import Update


class Aggregator(Protocol):
    """Weighted mean of vectors of one length over the ranks of a communicator.

    Made collectively, from this silo's weight (its sample count, at least 1).
    """

    @property
    def bounds(self) -> list[int]:
        """Offsets (n + 1,) of the slices; this rank gets [bounds[rank], bounds[rank + 1])."""

    @property
    def description(self) -> str:
        """The protocol in a few words, for people."""

    @property
    def in_the_clear(self) -> bool:
        """Whether ranks see parts of each other's vectors."""

    @property
    def clipped_silos(self) -> int:
        """How many silos had values beyond the configured range in the last round."""

    @property
    def bytes_sent_per_round(self) -> int:
        """Bytes of updates that this rank hands to other ranks in one `mean_slice`."""

    def prepare(self) -> None:
        """Begin in the background what the next `mean_slice` needs and no update changes, such as keys."""

    def mean_slice(self, update: Update, round_number: int) -> NDArray[np.floating[Any]]:
        """This rank's slice of sum_i weight_i update_i / sum_i weight_i; collective.

        Args:
            update: (d,) float32 or float64, the same type on every rank; not changed.
            round_number: the round, for protocols whose keys and rounding depend on it.

        Returns:
            A new array (bounds[rank + 1] - bounds[rank],) of the update's type.
        """

    def sum_numbers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over ranks of a few numbers, (k,) float64 of magnitudes below 2^39, k equal; collective.

        As private as the vectors are. NaN where a silo's number is not finite.
        """

    def close(self) -> None:
        """Release what is held; collective."""
