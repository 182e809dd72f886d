"""What of its updates a silo has not sent yet, as a part of the run: in its checkpoint, by parameter."""

from __future__ import annotations

from typing import final

from silofl.aggregation.residuals import Residuals
from silofl.config import CompressConfig
from silofl.federation.stateful import Json, Part, State


@final
class ErrorFeedback(Part):
    """This silo's residuals of `compress.error_feedback`; empty without it."""

    name = "error_feedback"

    def __init__(self, config: CompressConfig) -> None:
        self.residuals, self._kept = Residuals(), config.error_feedback

    def accept(self) -> None:
        """The round's sum is certain, and has what was sent."""
        self.residuals.accept()

    def state(self) -> State:
        """See `Stateful`."""
        return dict(self.residuals.values)

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Stateful`: a silo's own counts, whichever round it is of."""
        if state is not None and self._kept:
            self.residuals.load(state)

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`."""
        self.restore(own, (), member=False)
