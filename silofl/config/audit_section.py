"""[audit]: what a run leaves behind for those who look into it later."""

from __future__ import annotations

from silofl.config.section import Section


class AuditConfig(Section):
    """[audit]: a record of what every round decided, which no silo can change later by itself."""

    trail: bool = False
    """Each silo keeps a trail of all rounds, chained by digests and signed by every silo, which
    `silofl verify` verifies: who was there and in the sum, who was left out and why, the model's digest."""
