"""A server for each fragment of the parameters, one of which has its turn in a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from silofl.aggregation.base import Aggregator, Authorizer
from silofl.aggregation.magnitudes import Magnitudes
from silofl.aggregation.sum_terms import Common
from silofl.comm.elastic_group import ElasticGroup
from silofl.strategies.base import Strategy, Streaming
from silofl.topologies.base import Topology
from silofl.types import Contribution, Vector

MODEL = "model"


class FragmentedServer:
    """`Topology` of several, over parts of the same vector. A round goes through one of them.

    That one's sum has the fragment's values alone, and the model's buffers, which all of them step in turn.
    What silos must have in common before it is opened is the whole model, and which fragment it is.

    Args:
        kind: what each of them is.
        group, strategy, values, parameters, newcomers: see `Topology`.
        make_aggregators: for the sums of each fragment.
        parts: which of the parameters each fragment is; all of them in their order.
        streaming: which fragment a round sums.
    """

    name = "server"

    def __init__(
        self,
        kind: Callable[..., Topology],
        group: ElasticGroup,
        strategy: Strategy,
        make_aggregators: Sequence[Callable[[], Aggregator]],
        values: Vector,
        parameters: int,
        parts: Sequence[slice],
        streaming: Streaming,
        *,
        newcomers: tuple[int, ...] = (),
    ) -> None:
        self._streaming, self._turn = streaming, 0
        self.values, self.shared = values, {MODEL: values[:parameters]}
        self.aggregator: Aggregator
        self._servers: list[Topology] = [
            kind(
                group,
                strategy,
                make,
                values[part],
                part.stop - part.start,
                buffers=values[parameters:],
                newcomers=newcomers,
            )
            for make, part in zip(make_aggregators, parts, strict=True)
        ]
        if not newcomers:
            self.aggregator = self._servers[self._turn].aggregator

    @property
    def members(self) -> tuple[int, ...]:
        """See `Topology`: the first's, which is made before the others, and lacks no silo that they have."""
        return self._servers[0].members

    def begin(self, round_number: int) -> None:
        """See `Topology`."""
        self._turn = self._streaming.fragment(round_number)
        self.aggregator = self._servers[self._turn].aggregator

    def reduce(
        self,
        contribution: Contribution,
        round_number: int,
        magnitudes: Magnitudes,
        terms: bytes,
        *,
        absent: tuple[int, ...] = (),
        authorizer: Authorizer | None = None,
    ) -> None:
        """See `Topology`. Local models have been made from all fragments, so that all are compared."""
        named = terms + f" fragment {self._turn + 1} of {len(self._servers)}".encode()
        common = Common((self.values,), named, absent)
        self.aggregator.reduce(contribution, round_number, magnitudes, authorizer, common)

    def step(self, spare: Vector, *, resync: bool) -> None:
        """See `Topology`: the round's fragment."""
        self._servers[self._turn].step(spare, resync=resync)

    def rebuild(self, newcomers: tuple[int, ...] = ()) -> None:
        """See `Topology`; each of the newcomers calls `take_over` meanwhile."""
        for one in self._servers:
            one.rebuild(newcomers)
        self.aggregator = self._servers[self._turn].aggregator

    def keep_copies(self) -> str:
        """See `Topology`: of each fragment."""
        return " ".join(one.keep_copies() for one in self._servers).strip()

    def state(self) -> dict[str, Any]:
        """See `Topology`: of each fragment, by its number from 0."""
        return {str(index): one.state() for index, one in enumerate(self._servers)}

    def restore(self, state: dict[str, Any] | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Topology`."""
        for index, one in enumerate(self._servers):
            one.restore(None if state is None else state[str(index)], committed_by, member=member)

    def rejoin_state(self) -> dict[str, Any]:
        """See `Topology`: of each fragment."""
        return {str(index): one.rejoin_state() for index, one in enumerate(self._servers)}

    def take_over(self, told: dict[str, Any], own: dict[str, Any] | None) -> None:
        """See `Topology`."""
        for index, one in enumerate(self._servers):
            one.take_over(told[str(index)], None if own is None else own[str(index)])
        self.aggregator = self._servers[self._turn].aggregator

    def close(self) -> None:
        """See `Topology`."""
        for one in self._servers:
            one.close()
