"""What an aggregation is: every silo's contribution in, slices of their weighted means out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.layout import Block, Layout
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.spec import AggregationSpec
from silofl.aggregation.sum_terms import NOTHING_IN_COMMON, Common
from silofl.aggregation.tail import EncodingQuality
from silofl.comm.collective_errors import allgather_object, capture, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.types import Contribution, Total, Vector


@dataclass(frozen=True)
class Claim:
    """What a rank tells all others before a sum can be read.

    Attributes:
        told: a text, of one length on all ranks.
        accept: is given every rank's text (JSON) in rank order; what it raises on any rank, all raise.
    """

    told: str
    accept: Callable[[list[Any]], None]


Authorizer = Callable[[tuple[int, ...]], Claim | None]
"""authorizer(silos) is called on every rank once the silos of a sum are agreed and before it can be read;
what it raises on any rank, all raise, and the sum stays unread. It holds no collective: what ranks have to
tell each other about it is the `Claim` that it returns, on all of them or on none."""


class Aggregator(Protocol):
    """Weighted means of named vectors and scalars over the ranks of a group.

    Made collectively, for the ranks that there are then: a rank that fails in a round is left out of it, or
    was in it; afterwards another aggregator is made.
    """

    spec: AggregationSpec
    """What is added up."""

    layout: Layout
    """Which rank serves which slice of each vector."""

    @property
    def description(self) -> str:
        """The protocol in a few words, for people."""

    @property
    def quality(self) -> EncodingQuality:
        """How well the last sum's vectors were encoded."""

    @property
    def participants(self) -> tuple[int, ...]:
        """Numbers of the silos whose contributions are in the last sum, ascending."""

    @property
    def summed_samples(self) -> float:
        """Sample counts of the silos in the last sum, added up; before it, of all that are there."""

    def prepare(self) -> None:
        """Begin in the background what the next `reduce` needs and no contribution changes, such as keys."""

    def reduce(
        self,
        contribution: Contribution,
        round_number: int,
        magnitudes: Magnitudes,
        authorizer: Authorizer | None = None,
        common: Common = NOTHING_IN_COMMON,
    ) -> None:
        """Have the weighted means of all silos' contributions ready in slices; collective.

        Args:
            contribution: vectors of the spec's type, or ring words; not changed.
            round_number: keys and rounding may depend on it.
            magnitudes: what `magnitudes.measure` says of the contribution.
            authorizer: asked before the sum can be read.
            common: what silos must have in common; a private sum stays closed where they have not.

        Raises:
            ProtocolError: a silo has something else in common, or sent what it must not; it is named.
            DataError: values of a tensor, a scalar or a weight of the round are not finite, or too large for
                their format, at some silo; named. On every rank.
        """

    def total(self, index: int) -> Total:
        """Slice `index` of the last sum, which this rank serves or keeps a replica of; not collective.

        StoppedError where it is lost with all ranks that had it; RuntimeError where the last `reduce` failed.
        """

    def sum_scalars(
        self, values: NDArray[np.float64], made_from: Sequence[Vector] = ()
    ) -> NDArray[np.float64]:
        """Exact sums over ranks of a few numbers, float64 (k,), k equal; collective.

        As private as the vectors are. What they were `made_from`, such as the stepped model whose metrics
        they are, is compared first where this round did not begin with it: numbers that were made from
        different vectors stay hidden, by ProtocolError. NaN where a silo's number is not finite, or where a
        rank failed after another had sent its numbers.
        """

    def close(self) -> None:
        """Release what is held; collective."""


def authorize(
    group: ElasticGroup, authorizer: Authorizer | None, silos: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Raise on every rank what `authorizer` raises on any; collective.

    Returns the silos that were there when it was asked, the same on every rank; None without one.
    """
    if authorizer is None:
        return None

    def authorized() -> tuple[int, ...]:
        asked = capture(lambda: authorizer(silos))
        claim = None if asked.failed else asked.value()
        told = None if claim is None else claim.told
        every = allgather_object(group.comm, told, asked.error(group.comm.rank))
        if claim is not None:
            with raise_on_all_ranks(group.comm):
                claim.accept(every)
        return group.members

    return group.step(authorized)


def total_of(
    aggregator: Aggregator,
    index: int,
    read: Callable[[Block], Any],
    empty: Callable[[str], Any],
    scalars: Mapping[str, float],
) -> Total:
    """Slice `index` of a sum, block by block as `read` gives them; `empty(name)` where a vector has none."""
    mean = {one.name: empty(one.name) for one in aggregator.spec.vectors}
    mean |= {block.name: read(block) for block in aggregator.layout.blocks(index)}
    return Total(mean, scalars, len(aggregator.participants), aggregator.spec.silos)
