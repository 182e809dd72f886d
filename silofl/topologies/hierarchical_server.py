"""A server in slices whose sums pass through groups of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from silofl.aggregation.base import Aggregator
from silofl.comm.elastic_group import ElasticGroup
from silofl.strategies.base import Strategy
from silofl.topologies.arrangements.base import Arrangement
from silofl.topologies.grouping import arrange
from silofl.topologies.sharded_server import ShardedServer
from silofl.types import Vector


class HierarchicalServer(ShardedServer):
    """`Topology` of ranks that each own a slice, in groups; the bits are those of `ShardedServer`.

    What ranks send passes through groups because the communicator knows them (`Communicator.arrange`): a run
    tells it before anything is sent, and here it is told where that was not done, as in a trial.
    """

    def __init__(
        self,
        group: ElasticGroup,
        strategy: Strategy,
        make_aggregator: Callable[[], Aggregator],
        values: Vector,
        parameters: int,
        *,
        arrangement: Arrangement,
        **more: Any,
    ) -> None:
        if not group.comm.groups:
            arrange(group, arrangement)
        super().__init__(group, strategy, make_aggregator, values, parameters, **more)
