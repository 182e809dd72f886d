"""What a round decided of silos: taken up as [detection] and the audit trail have it, and signed."""

from __future__ import annotations

from silofl.detection.silo_standing import Verdict
from silofl.federation.federation import Federation, RunContext
from silofl.report.round_metrics import RoundMetrics


def verdict_of(context: RunContext, round_number: int) -> Verdict | None:
    """What [detection] decided in a round whose step is over; no better for any silo than was signed."""
    if context.exclusions is None:
        return None
    signed = None if context.trail is None else context.trail.standings_signed(round_number)
    return context.exclusions.accept(signed)


def sign_decisions(federation: Federation, metrics: RoundMetrics) -> None:
    """Have all silos sign what a round decided, where a trail is kept; collective."""
    context = federation.context
    if context.trail is not None:
        standings = None if context.exclusions is None else context.exclusions.standings
        context.trail.record(metrics, federation.topology, standings)
