"""A server of one rank, which has no data: the coordinator."""

from __future__ import annotations

from typing import Any

from silofl.topologies.arrangements.base import Arrangement
from silofl.topologies.sharded_server import ShardedServer


class StarServer(ShardedServer):
    """`Topology` of a coordinator that serves everything: one slice has all, and the others' are empty.

    Which rank that is its aggregator knows (`AggregationSpec.sole`); the rest is as with slices for all.
    """

    def __init__(self, *given: Any, arrangement: Arrangement, **more: Any) -> None:
        self.arrangement = arrangement
        super().__init__(*given, **more)
