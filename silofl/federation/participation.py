"""Partial participation: which silos are drawn to train in a round, where not all of them are.

A draw is a function of (seed, round) and of the silos that are there, so that all ranks make the same and a
resume makes it again. Everybody knows it: it saves the time of those that are not drawn and hides nothing,
and so a secure sum is never opened over fewer drawn silos than its protocol asks for. Under [privacy] silos
draw for themselves instead: see `privacy/pipeline.py`.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import ClassVar

from silofl.aggregation.protocols import choose_protocol, protocol_name
from silofl.config import Config
from silofl.errors import ConfigError, TooFewDrawnError
from silofl.report.round_metrics import silos_text
from silofl.topologies.arrangements._buffering import Buffering
from silofl.topologies.arrangements.registry import build as arrangement_of

Silos = tuple[int, ...]


@dataclass(frozen=True)
class Participation:
    """The draws of a run.

    Attributes:
        seed: of the run.
        rate: with which probability each silo takes part.
        count: how many take part instead; None where `rate` says.
        fewest: how many do at least.
    """

    seed: int
    rate: float
    count: int | None
    fewest: int
    all_in_resync: ClassVar[bool] = True
    """Whether no silo that could take part sits a resync out."""

    @classmethod
    def of(cls, config: Config, silos: int) -> Participation | None:
        """The draws of a run of `silos`; None where all take part, or where each draws for itself."""
        run = config.run
        if config.privacy.unit != "none" or (run.participation == 1 and run.silos_per_round is None):
            return None
        return cls(run.seed, run.participation, run.silos_per_round, fewest_drawn(config, silos))

    def drawn(self, number: int, members: Silos) -> Silos:
        """Which of `members` take part in a round, ascending; all where they are no more than `fewest`.

        Each silo has one coin a round, uniform over 64 bits. With a rate those take part whose coin is below
        it, and where they are fewer than `fewest` those whose coins are the smallest; with a count the
        smallest coins. So which silos are there changes no other silo's coin.
        """
        coins = {silo: self._coin(number, silo) for silo in members}
        below = sum(coin < math.ldexp(self.rate, 64) for coin in coins.values())
        many = max(self.fewest, below if self.count is None else self.count)
        return tuple(sorted(sorted(members, key=lambda silo: coins[silo])[:many]))

    def _coin(self, number: int, silo: int) -> int:
        place = b"silofl participation" + struct.pack(">QQQ", self.seed, number, silo)
        return int.from_bytes(hashlib.sha256(place).digest()[:8])

    def refuse_too_few(self, number: int, silos: Silos) -> None:
        """See `Authorizer`. Raises TooFewDrawnError where a sum over `silos` is of fewer than `fewest`."""
        if len(silos) < self.fewest:
            left = f"{silos_text(silos)} {'is' if len(silos) == 1 else 'are'}" if silos else "none is"
            raise TooFewDrawnError(
                f"round {number}: of the silos that were drawn {left} left, and a sum is over {self.fewest} "
                "at least: --resume goes on from the last committed round",
                rank=0,
            )


def fewest_drawn(config: Config, silos: int) -> int:
    """How many silos are drawn for a round at least.

    Everybody knows who was drawn. So a secure sum is over no fewer of them than it would be over where others
    had failed; in the clear one is enough.
    """
    protocol = choose_protocol(config.secure, silos)
    return protocol.fewest(config.secure, silos) if protocol.private else 1


def buffering_of(config: Config, silos: int) -> Buffering | None:
    """When sums open without all silos, as [topology] says; None where every sum is over all."""
    return arrangement_of(config.topology).buffering(min(silos, fewest_drawn(config, silos)))


def _refuse_small_buffers(config: Config, silos: int) -> None:
    """Raise ConfigError for a buffer of fewer silos than the protocol adds up."""
    rule = buffering_of(config, silos)
    if rule is not None and rule.count < rule.fewest:
        raise ConfigError(
            f"topology.buffer = {rule.count} opens sums over {rule.count} of {silos} silos, and "
            f'secure.protocol = "{protocol_name(config.secure, silos)}" adds up no fewer than {rule.fewest}, '
            f"for all know who was in: set it to {rule.fewest} or more, or secure.protocol to "
            '"plain", which hides nothing',
            rank=0,
        )


def refuse_unfit(config: Config, silos: int) -> None:
    """Raise ConfigError, the same on every rank, for a participation that so many silos cannot have."""
    _refuse_small_buffers(config, silos)
    count, rate = config.run.silos_per_round, config.run.participation
    if count is not None and count > silos:
        raise ConfigError(
            f"run.silos_per_round = {count} is more than the {silos} silos there are: set it to {silos} or "
            "less, or remove it",
            rank=0,
        )
    if Participation.of(config, silos) is None:
        return
    fewest = min(silos, fewest_drawn(config, silos))
    key = f"run.participation = {rate:g} draws {rate * silos:.3g} of {silos} silos a round on average"
    least = f"{math.ceil(fewest / silos * 1000) / 1000:g}"
    if count is not None:
        key, least = f"run.silos_per_round = {count} draws {count} of {silos} silos a round", str(fewest)
    remedy = "remove it, or set" if fewest == silos else f"set it to {least} or more, or"
    if choose_protocol(config.secure, silos).private and (count or rate * silos) < fewest:
        raise ConfigError(
            f'{key}, and secure.protocol = "{protocol_name(config.secure, silos)}" adds up no fewer than '
            f"{fewest}, for all know who was drawn: {remedy} secure.protocol to "
            '"plain", which hides nothing',
            rank=0,
        )


def describe_participation(config: Config, silos: int) -> str:
    """Who takes part in a round, in one line for people; empty where all do."""
    draws, run, rule = Participation.of(config, silos), config.run, buffering_of(config, silos)
    if rule is not None:
        return rule.describe(silos)
    if draws is None and run.participation < 1:
        return (
            f"each silo is in a round's sum with probability {run.participation:g}, by a coin that no other "
            "silo learns, and trains in every round, so that nobody sees in which"
        )
    if draws is None:
        return ""
    if run.silos_per_round is not None:
        return f"{run.silos_per_round} of {silos} silos train in a round, drawn by run.seed: all know which"
    fewest = min(silos, draws.fewest)
    return (
        f"each silo trains in a round with probability {run.participation:g}, {fewest} of {silos} at least, "
        "drawn by run.seed: all know which"
    )
