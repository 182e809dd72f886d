"""How many silos [detection] may leave out of a run, and what it cannot be had of."""

from __future__ import annotations

from silofl.aggregation.protocols import PROTOCOLS, choose_protocol, protocol_name
from silofl.config import Config
from silofl.detection.silo_standing import ExclusionRules
from silofl.errors import ConfigError
from silofl.federation.failure.policy import min_silos

FEWEST = 4
"""Silos of a round at least: fewer have no median that a deviation could be from."""


def rules_of(config: Config, silos: int) -> ExclusionRules:
    """When a run of `silos` leaves one out."""
    found, rule = config.detection, config.robust.rule
    usual = _updates(config, silos) // 3 if rule is None else rule.f
    most = usual if found.most is None else found.most
    return ExclusionRules(
        *(found.threshold, found.strikes, found.window, found.exclusion, found.probation),
        most=most,
        fewest=min_silos(config, silos),
        excludes=found.excludes,
    )


def refuse_unfit_detection(config: Config, silos: int) -> None:
    """Raise ConfigError, the same on every rank, where [detection] cannot be had of so many silos."""
    found, run = config.detection, config.run
    if not found.active:
        return
    key = f'detection.mode = "{found.mode}"'
    if "rows" not in choose_protocol(config.secure, silos).gives:
        openly = " or ".join(f'"{one}"' for one, kind in PROTOCOLS.items() if "rows" in kind.gives)
        raise ConfigError(
            f"{key} compares every silo's own update, and secure.protocol = "
            f'"{protocol_name(config.secure, silos)}" hides them in one sum: set secure.protocol = {openly}, '
            "which shows updates to the ranks that serve their slices, or remove [detection]",
            rank=0,
        )
    if run.participation < 1:
        raise ConfigError(
            f"{key} needs a number of updates, and run.participation = {run.participation:g} leaves it to "
            "coins: set run.silos_per_round in its place, or remove one of them",
            rank=0,
        )
    count = _updates(config, silos)
    if count < FEWEST:
        raise ConfigError(
            f"{key} compares {count} silos' updates, and needs {FEWEST} to see which is unlike the others: "
            'set detection.mode = "off", or have more silos in a round',
            rank=0,
        )
    rules = rules_of(config, silos)
    room, wanted = rules.room(count), 1 if found.most is None else found.most
    if not found.excludes or room >= wanted:
        return
    most = key if found.most is None else f"detection.most = {wanted}"
    raise ConfigError(
        f"{most} leaves out {wanted} of {count} silos, of which {rules.fewest} have to stay, and more than "
        "half: "
        + (f"set it to {room}, or " if room else "")
        + 'set detection.mode = "show", lower robust.f or failure.min_silos, or have more silos',
        rank=0,
    )


def _updates(config: Config, silos: int) -> int:
    """How many there are in a round."""
    return silos if config.run.silos_per_round is None else config.run.silos_per_round
