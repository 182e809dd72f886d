"""The server of asynchronous federations: in slices, and rounds are sums of the silos that have trained.

Which silos those are is decided before a round's sum by `federation/arrivals.py`; all others are absent from
it, so that it is made, secured, stepped, recomputed and committed as one is in which silos sit out.
"""

from __future__ import annotations

from typing import Any, final

from silofl.topologies.arrangements.base import Arrangement
from silofl.topologies.sharded_server import ShardedServer


@final
class AsynchronousServer(ShardedServer):
    """`ShardedServer` of an arrangement with keys."""

    def __init__(self, *parts: Any, arrangement: Arrangement, **more: Any) -> None:
        super().__init__(*parts, **more)
        self.arrangement = arrangement
