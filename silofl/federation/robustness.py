"""What [robust] and [attack] cannot be had of: sums that hide updates, and too few silos."""

from __future__ import annotations

import numpy as np

from silofl.aggregation.protocols import PROTOCOLS, choose_protocol, protocol_name
from silofl.attacks.base import Insight, LiveAttack
from silofl.config import Config
from silofl.errors import ConfigError
from silofl.types import Vector


def refuse_unfit_rule(config: Config, silos: int) -> None:
    """Raise ConfigError, the same on every rank, where [robust] cannot be had of so many silos."""
    rule = config.robust.rule
    if rule is None:
        return
    key, name = f'robust.name = "{config.robust.name}"', protocol_name(config.secure, silos)
    if "rows" not in choose_protocol(config.secure, silos).gives:
        openly = " or ".join(f'"{one}"' for one, kind in PROTOCOLS.items() if "rows" in kind.gives)
        raise ConfigError(
            f"{key} compares every silo's own update with the others', and secure.protocol = \"{name}\" "
            "hides them in one sum, in which one silo's lie is not seen: set secure.protocol = "
            f"{openly}, which shows updates to the ranks that serve their slices, or remove [robust]",
            rank=0,
        )
    run = config.run
    if run.participation < 1:
        raise ConfigError(
            f"{key} needs a number of updates, and run.participation = {run.participation:g} leaves it to "
            "coins: set run.silos_per_round in its place, or remove one of them",
            rank=0,
        )
    count = silos if run.silos_per_round is None else run.silos_per_round
    refusal = rule.refusal_of_run(silos, count)
    if refusal is not None:
        raise ConfigError(refusal, rank=0)


def refuse_unfit_attack(config: Config, silos: int) -> None:
    """Raise ConfigError, the same on every rank, where [attack] cannot be had of so many silos."""
    attack = config.attack.attack
    if attack is None:
        return
    head, protocol = f'attack.name = "{config.attack.name}"', choose_protocol(config.secure, silos)
    beyond = [one for one in attack.silos if one >= silos]
    if beyond or not attack.silos:
        raise ConfigError(
            f"attack.silos = {list(attack.silos)} and the silos are 0 to {silos - 1}: name one or more",
            rank=0,
        )
    if attack.omniscient and not attack.colludes:
        raise ConfigError(f"{head} makes no use of other silos' updates: remove attack.omniscient", rank=0)
    refusal = attack.refusal(silos)
    if refusal is not None:
        raise ConfigError(refusal, rank=0)
    hidden = f'secure.protocol = "{protocol_name(config.secure, silos)}"'
    if attack.omniscient and protocol.private:
        raise ConfigError(
            f"attack.omniscient = true shows updates that {hidden} hides: remove it, and attackers know "
            'their own alone, or set secure.protocol = "plain"',
            rank=0,
        )
    if attack.omniscient and len(set(attack.silos)) == silos:
        raise ConfigError(f"{head} by all silos leaves none to know of: remove attack.omniscient", rank=0)
    if protocol.private and not np.isfinite(_sample(attack)).all():
        raise ConfigError(
            f"{head} sends values that no ring has a word for, and {hidden} adds words up: set "
            'secure.protocol = "plain"',
            rank=0,
        )


def _sample(attack: LiveAttack) -> Vector:
    """What it makes of ordinary updates."""
    one = np.ones(2)
    return attack.forge(Insight(one, {0: one, 1: -one}, 4, 2, np.random.default_rng(0)))
