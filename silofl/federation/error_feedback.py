"""What of updates was not in a sum yet, as a part of the run: in each checkpoint, by parameter."""

from __future__ import annotations

from typing import Self, final

from silofl.aggregation.common_state import share
from silofl.aggregation.residuals import Residuals
from silofl.comm.elastic_group import ElasticGroup
from silofl.compression.base import FactorCodec, SketchCodec
from silofl.compression.registry import CODECS
from silofl.config import Config
from silofl.federation.stateful import Json, Part, State


@final
class ErrorFeedback(Part):
    """This silo's residuals of `compress.error_feedback`, and what silos have in common of earlier sums.

    Args:
        group: the ranks.
        shares: whether the codec has silos keep something in common.
    """

    name = "error_feedback"

    def __init__(self, group: ElasticGroup, *, shares: bool) -> None:
        self.residuals = Residuals()
        self._group, self._shares = group, shares

    @classmethod
    def of(cls, group: ElasticGroup, config: Config) -> Self:
        """That of a configuration."""
        return cls(group, shares=issubclass(CODECS[config.compress.name], (FactorCodec, SketchCodec)))

    def accept(self) -> None:
        """The round's sum is certain, and has what was sent."""
        self.residuals.accept()

    def state(self) -> State:
        """See `Stateful`."""
        left = self.residuals
        return {"residuals": dict(left.values), **({"common": dict(left.common)} if left.common else {})}

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Stateful`: a silo's own counts, whichever round it is of; others give it what is in common."""
        self._load(state, member=member)
        if self._shares:
            share(self._group, self.residuals)

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`; what is in common is given to it as aggregators are made, or begins anew at all."""
        self._load(own, member=False)

    def _load(self, state: State | None, *, member: bool) -> None:
        if state is not None:
            self.residuals.load(state.get("residuals", {}), state.get("common", {}) if member else {})
