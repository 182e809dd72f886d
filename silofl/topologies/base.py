"""What a topology is: the way from every silo's contribution to the next shared vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from silofl.aggregation.base import Aggregator, Authorizer
from silofl.aggregation.magnitudes import Magnitudes
from silofl.comm.elastic_group import ElasticGroup
from silofl.strategies.base import Strategy
from silofl.types import Contribution, Vector

BUFFERS = "buffers"
"""Name of the vector of a model's buffers, which no strategy may send."""

NO_STARTS: Mapping[str, Vector] = MappingProxyType({})
"""All shared vectors but the model begin with zeros."""


class Topology(Protocol):
    """One rank's part of it. All calls are collective but for `state` and `rejoin_state`.

    Collective to make; a silo that rejoins makes it alone, and then calls `take_over`.

    Args:
        group: the ranks.
        strategy: both halves of the learning; its server half steps slices.
        make_aggregator: the aggregator for the ranks that there are; collective.
        values: (d,) the model's parameters, then its buffers; changed in place from here on.
        parameters: P, how many leading values are parameters.
        buffers: (b,) the model's buffers where they do not lie in `values`, as where several topologies have
            parameters of one model: all of them step its buffers.
        newcomers: the silos that have just rejoined, this rank among them; none at the start of a run.
        starts: what shared vectors begin with, by name, (P,) each; zeros where they are not named.

    A topology whose arrangement has keys takes that, too, as `arrangement`.
    """

    def __init__(
        self,
        group: ElasticGroup,
        strategy: Strategy,
        make_aggregator: Callable[[], Aggregator],
        values: Vector,
        parameters: int,
        *,
        buffers: Vector | None = None,
        newcomers: tuple[int, ...] = (),
        starts: Mapping[str, Vector] = NO_STARTS,
    ) -> None: ...

    name: str
    """Its key in checkpoints and in what a silo that rejoins is told."""

    aggregator: Aggregator
    """What adds up contributions."""

    @property
    def members(self) -> tuple[int, ...]:
        """The silos that all parts are made for."""

    @property
    def shared(self) -> dict[str, Vector]:
        """The vectors that every silo is given, (P,) each, the same bytes on every rank after `step`."""

    @property
    def values(self) -> Vector:
        """(d,) the model's parameters, then its buffers."""

    def begin(self, round_number: int) -> None:
        """Turn to what a round sums, before it is trained for; not collective."""

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
        """Add up all silos' contributions, which were made from `shared` and `values` under equal `terms`.

        Those of `absent` silos are zeros. The `authorizer` is asked before the sum can be read.
        """

    def step(self, spare: Vector, *, resync: bool) -> None:
        """Step the shared vectors with the sum and give every rank all of them."""

    def rebuild(self, newcomers: tuple[int, ...] = ()) -> None:
        """Make all parts anew for the silos that are there now, of which `newcomers` have just rejoined."""

    def keep_copies(self) -> str:
        """Have copies on other hosts in what `state` gives next, so that a round outlives any one host.

        Returns a digest of the shared vectors and the server's state, the same on every rank; empty where
        there are no copies: on one host, and where a silo was lost since the last `rebuild`. Within a step.
        """

    def state(self) -> dict[str, Any]:
        """What this rank commits of the shared vectors and of the server's state, as views."""

    def restore(self, state: dict[str, Any] | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """Take up committed states of a round that `committed_by` committed.

        This rank's counts where it was a `member` of that round. What silos had that are not there comes from
        copies; CheckpointError, on every rank, where no copy is left.
        """

    def rejoin_state(self) -> dict[str, Any]:
        """What a silo that rejoins has to know to `take_over`, as JSON."""

    def take_over(self, told: dict[str, Any], own: dict[str, Any] | None) -> None:
        """Rejoin, on a newcomer, while all others `rebuild`; what it committed itself does not matter."""

    def close(self) -> None:
        """Release what is held."""
