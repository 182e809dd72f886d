"""[failure]: what happens when a silo's process dies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from silofl.config.section import Section
from silofl.constrained import NonNegativeInt, PositiveFloat, PositiveInt
from silofl.faults import Fault
from silofl.faults import parse as parse_fault


class FailureConfig(Section):
    """[failure]: what happens when a silo's process dies, or says nothing any more."""

    policy: Literal["shrink", "respawn", "abort"] = "respawn"
    """`shrink` goes on without the lost silo, `respawn` starts it again, `abort` stops after the last commit
    with exit code 75. Without ULFM in the MPI library it is always `abort`."""
    min_silos: PositiveInt | None = None
    """The fewest silos that a round may go on with; unset, the secure sum's own minimum; two in the clear."""
    silent_s: PositiveFloat = 300.0
    """Seconds after which a silo that is stopped, or stuck in its own work, is ended as if it had died; after
    twice as long the others end the job."""
    rejoin_s: PositiveFloat = 60.0
    """`respawn`: seconds in which a silo that was started again must be back; else they go on without it."""
    leave_out: list[NonNegativeInt] = Field(default_factory=list)
    """`shrink`, at a resume: silos to go on without, whatever files they have. `silofl launch` names those of
    institutions whose host does not answer."""
    inject: list[str] = Field(default_factory=list)
    """Faults to inject: `kill silo 2 round 5 at collect`; see `docs/failure.md`. A resumed run has none."""

    @property
    def faults(self) -> list[Fault]:
        """The faults that `inject` names."""
        return [parse_fault(text) for text in self.inject]

    @model_validator(mode="after")
    def _silos_may_be_left_out(self) -> FailureConfig:
        if self.leave_out and self.policy != "shrink":
            raise ValueError('leave_out is for policy = "shrink", which goes on without silos')
        return self

    @model_validator(mode="after")
    def _faults_are_known(self) -> FailureConfig:
        for text in self.inject:
            parse_fault(text)
        return self
