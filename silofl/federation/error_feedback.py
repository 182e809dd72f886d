"""What of its updates a silo has not sent yet, as a part of the run: in its checkpoint, by parameter."""

from __future__ import annotations

from typing import final

from silofl.aggregation.residuals import Residuals
from silofl.federation.stateful import Json, Part, State


@final
class ErrorFeedback(Part):
    """This silo's residuals of `compress.error_feedback`, and factors of codecs that have some."""

    name = "error_feedback"

    def __init__(self) -> None:
        self.residuals = Residuals()

    def accept(self) -> None:
        """The round's sum is certain, and has what was sent."""
        self.residuals.accept()

    def state(self) -> State:
        """See `Stateful`."""
        left = self.residuals
        return {"residuals": dict(left.values), **({"factors": dict(left.factors)} if left.factors else {})}

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Stateful`: a silo's own counts, whichever round it is of."""
        if state is not None:
            self.residuals.load(state.get("residuals", {}), state.get("factors", {}) if member else {})

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`; of what silos have in common all begin anew."""
        self.restore(own, (), member=False)
