"""How many silos recompute the step of a slice in a run."""

from __future__ import annotations

from silofl.aggregation.protocols import choose_protocol
from silofl.config import Config
from silofl.privacy.places import PLACES


def recomputations(config: Config, silos: int) -> int:
    """How many other ranks recompute the step of a slice: none where they would not find the same in its sum.

    Noise that servers add is different on each of them.
    """
    same = config.privacy.unit == "none" or PLACES[config.privacy.place].repeatable
    if not same or not choose_protocol(config.secure, silos).commits:
        return 0
    return min(config.secure.recompute, silos - 1)
