"""How many silos recompute the step of a slice in a run, and what that protects from."""

from __future__ import annotations

from silofl.aggregation.protocols import choose_protocol
from silofl.aggregation.shards import MAX_REPLICAS
from silofl.config import Config
from silofl.federation.failure.policy import replicas
from silofl.privacy.places import PLACES
from silofl.topologies.arrangements.registry import build, with_data


def recomputations(config: Config, silos: int) -> int:
    """How many other ranks recompute the step of a slice: none where they would not find the same in its sum.

    Noise that servers add is different on each of them.
    """
    same = config.privacy.unit == "none" or PLACES[config.privacy.place].repeatable
    if not same or not choose_protocol(config.secure, with_data(config.topology, silos)).commits:
        return 0
    return min(config.secure.recompute, silos - 1)


def replica_count(config: Config, silos: int) -> int:
    """How many neighbours keep replicas of a slice: as many as silos may fail at once, and one that checks.

    Where the one silo that checks a slice takes it over, another has its sum and state to check that.
    """
    lost = replicas(config, silos, MAX_REPLICAS)
    checked = lost > 0 and recomputations(config, silos) == 1
    return min(lost + checked, MAX_REPLICAS, silos - 1)


def describe_recomputation(config: Config, silos: int) -> str:
    """The same in one line for people; empty for a run of one silo."""
    checkers = recomputations(config, silos)
    if silos == 1 or build(config.topology).own_models:  # there are no slices
        return ""
    if checkers == 0:
        return "recomputed by no other silo: what the server of a slice makes of its sum is believed"
    what = (
        "each slice's sum is opened, too,"
        if config.compress.active or config.prune.active
        else "each slice's is recomputed"
    )
    others = "1 other silo" if checkers == 1 else f"{checkers} other silos"
    them = "it" if checkers == 1 else "all of them"
    return f"{what} by {others}: a server that lies is named and the run ends, unless it colludes with {them}"
