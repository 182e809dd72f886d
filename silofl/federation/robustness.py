"""What [robust] cannot be had of: sums that hide updates, and too few silos."""

from __future__ import annotations

from silofl.aggregation.protocols import PROTOCOLS, choose_protocol, protocol_name
from silofl.config import Config
from silofl.errors import ConfigError


def refuse_unfit(config: Config, silos: int) -> None:
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
    refusal = rule.refusal(count)
    if refusal is not None:
        raise ConfigError(refusal, rank=0)
