"""What survivors hand to a silo that rejoins: one typed message."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from silofl.report.round_metrics import RoundMetrics

Json = dict[str, Any]


@dataclass(frozen=True)
class RejoinState:
    """The run as the survivors know it, between two rounds. No secret, and nothing of a silo's data.

    Attributes:
        silos: that rejoin.
        round: the last one that is complete.
        completed: steps of the group that are done once the silos are in.
        path: the leader's run directory.
        rounds: metrics of the rounds that this process of the leader ran.
        affordable: how many more rounds the run may spend privacy on, up to 2.
        run: the run's id.
        parts: what each `Stateful` part of the run tells, by name.
    """

    silos: tuple[int, ...]
    round: int
    completed: int
    path: str
    rounds: list[RoundMetrics]
    affordable: int
    run: str
    parts: Json

    def encode(self) -> bytes:
        """As a message."""
        table = {one.name: getattr(self, one.name) for one in fields(self)}
        table["rounds"] = [metrics.to_json() for metrics in self.rounds]
        return json.dumps(table).encode()

    @classmethod
    def decode(cls, message: bytes) -> RejoinState:
        """From a message."""
        table = json.loads(message)
        rounds = [RoundMetrics.from_json(line) for line in table["rounds"]]
        return cls(**table | {"silos": tuple(table["silos"]), "rounds": rounds})
