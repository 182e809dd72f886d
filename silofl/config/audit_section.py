"""[audit]: what a run leaves behind for those who look into it later."""

from __future__ import annotations

from silofl.config.section import Section


class AuditConfig(Section):
    """[audit]: a record of what every round decided, which half of the silos or fewer cannot change later."""

    trail: bool = False
    """Each silo keeps a trail of all rounds, chained by digests and signed by every silo that is there, which
    `silofl verify` verifies: who was there and in the sum, who was left out and why, the model's digest.
    A run goes on with more than half of its silos alone, for so many sign."""
