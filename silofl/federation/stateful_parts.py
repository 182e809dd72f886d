"""Everything of a run that has state of its own, in the order in which it is restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.federation.stateful import Stateful

if TYPE_CHECKING:
    from silofl.federation.federation import RunContext


def parts_of(context: RunContext) -> tuple[Stateful, ...]:
    """Everything with state but the topology, which is made of these: a new part is one more line here."""
    parts = (
        context.origin,  # first: nothing is taken up where the data is not the run's
        context.arrivals or context.silo,
        context.feedback,
        context.mask,  # behind: it cuts what is fed back
        context.private_part,
        context.openings,
        context.membership,
        context.respawns,
        context.watched,
        context.exclusions,
        context.trail,
    )
    return tuple(one for one in parts if one is not None)
