"""The privacy engine as a part of a run that is committed, resumed and told to who rejoins."""

from __future__ import annotations

from silofl.aggregation.base import Aggregator
from silofl.federation.privacy.engine import PrivacyEngine
from silofl.federation.stateful import Part, State


class PrivatePart(Part):
    """The privacy engine's state. What all silos share of it is in every silo's checkpoint."""

    name = "privacy"

    def __init__(self, engine: PrivacyEngine) -> None:
        self.engine = engine
        self.aggregator: Aggregator
        """What the engine made of the aggregator when it was restored."""

    def state(self) -> State:
        """See `Stateful`."""
        return self.engine.state()

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Stateful`."""
        self.aggregator = self.engine.restore(state, member=member)

    def rejoin_state(self) -> State:
        """See `Stateful`."""
        return self.engine.rejoin_state()

    def take_over(self, told: State, own: State | None) -> None:
        """See `Stateful`."""
        self.engine.come_back(told, own)
