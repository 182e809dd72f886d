"""What an aggregation is: every silo's vector in, slices of their weighted mean out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.shards import Shards
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.types import RingVector, TotalSlice, Update

Authorizer = Callable[[tuple[int, ...]], None]
"""authorizer(silos) is called on every rank once the silos of a sum are agreed and before it can be read;
what it raises on any rank, all raise, and the sum stays unread."""


class Aggregator(Protocol):
    """Weighted mean of vectors of one length over the ranks of a group.

    Made collectively, from this silo's weight (its sample count, at least 1), for the ranks that there are
    then: a rank that is lost in a round is left out of it, or was in it; afterwards another one is made.
    """

    @property
    def shards(self) -> Shards:
        """Who serves which slice."""

    @property
    def recovers(self) -> bool:
        """Whether a round goes on when a rank is lost in it."""

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
    def participants(self) -> tuple[int, ...]:
        """FixedPoint64 of the silos whose vectors are in the last sum, ascending."""

    @property
    def bytes_sent_per_round(self) -> int:
        """Bytes of updates that this rank hands to other ranks in one `reduce`."""

    def prepare(self) -> None:
        """Begin in the background what the next `reduce` needs and no update changes, such as keys."""

    def reduce(self, update: Update, round_number: int) -> None:
        """Have sum_i weight_i update_i / sum_i weight_i ready in slices; collective.

        Args:
            update: (d,) float32 or float64, the same type on every rank; not changed.
            round_number: the round, for protocols whose keys and rounding depend on it.
        """

    def mean(self, index: int) -> NDArray[np.floating[Any]]:
        """Slice `index` of the last mean, of the update's type, which this rank serves or keeps a copy of.

        Not collective. StoppedError where it is lost with all who had it.
        """

    def sum_scalars(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over ranks of a few numbers, (k,) float64 of magnitudes below 2^39, k equal; collective.

        As private as the vectors are. NaN where a silo's number is not finite.
        """

    def close(self) -> None:
        """Release what is held; collective."""


class WordAggregator(Aggregator, Protocol):
    """An aggregator that also adds up integers in a ring, as they are."""

    @property
    def ring(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Type of the words that `reduce_words` takes."""

    @property
    def summed_weight(self) -> float:
        """Sum of the weights of the silos in the last sum; before it, of all that are there."""

    def reduce_words(self, words: RingVector, authorizer: Authorizer) -> None:
        """Have the sum of all silos' words, in their ring, ready in slices; collective.

        Args:
            words: (d,) of the type `ring`; not changed.
            authorizer: asked before the sum can be read.
        """

    def words(self, index: int) -> TotalSlice:
        """Slice `index` of the last sum of words; as `mean`."""


def authorize(group: ElasticGroup, authorizer: Authorizer | None, silos: tuple[int, ...]) -> None:
    """Raise on every rank what `authorizer` raises on any; collective."""
    if authorizer is None:
        return

    def authorized() -> None:
        with raise_on_all_ranks(group.comm):
            authorizer(silos)

    group.step(authorized)
