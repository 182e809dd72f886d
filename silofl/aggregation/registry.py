"""Which protocol adds up the updates, as [secure] says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from silofl.aggregation.additive import Additive
from silofl.aggregation.base import WordAggregator
from silofl.aggregation.plain import PlainAggregator
from silofl.aggregation.rules import rules_for
from silofl.aggregation.secagg import SecAgg, SecureVectorSum
from silofl.aggregation.session import SecureSession, open_session
from silofl.comm.crew import Crew
from silofl.comm.protocol import Communicator
from silofl.comm.verdict import together
from silofl.config import SecureConfig
from silofl.crypto.identity import Identity, read_passphrase
from silofl.crypto.roster import Roster
from silofl.errors import ConfigError


@dataclass(frozen=True)
class Sums:
    """What an aggregator is for: vectors of `size` values of `dtype`, from a silo of `weight` samples."""

    size: int
    dtype: np.dtype[np.floating]
    weight: int
    seed: int
    config_digest: bytes
    silos: int
    """How many silos the run has in all."""
    copies: int = 0
    """With how many other ranks the sum of each slice lies, for the case that its server is lost."""


def choose_protocol(config: SecureConfig, silos: int) -> str:
    """`auto` settled: `secagg` for three silos or more, `plain` below. ConfigError for what hides nothing."""
    if config.protocol == "auto":
        return "secagg" if silos >= 3 or (silos == 2 and config.allow_two) else "plain"
    if config.protocol != "plain" and silos < 3 and not (silos == 2 and config.allow_two):
        raise ConfigError(
            f'secure.protocol = "{config.protocol}" over {silos} hides nothing: '
            'each learns the other\'s update from the sum; use three silos, secure.protocol = "plain", '
            "or secure.allow_two = true for two"
        )
    return config.protocol


def build(crew: Crew, config: SecureConfig, sums: Sums) -> WordAggregator:
    """The aggregator that [secure] names, for the ranks that there are now; collective.

    `auto` is settled by how many silos the run has in all: it does not change with losses.
    """
    protocol = crew.step(lambda: _checked_protocol(crew.comm, config, sums.silos))
    if protocol == "plain":
        return crew.step(
            lambda: PlainAggregator(crew, sums.size, sums.dtype, weight=sums.weight, copies=sums.copies)
        )
    session = crew.step(lambda: _session(crew, config, sums))
    if protocol == "additive":
        return crew.step(
            lambda: Additive(
                session,
                sums.size,
                sums.dtype,
                weight=sums.weight,
                committee=config.committee,
                value_range=config.range,
            )
        )
    seed = sums.seed if config.rounding == "stochastic" else None
    vector_sum = crew.step(
        lambda: SecureVectorSum(
            session, sums.size, value_range=config.range, rounding_seed=seed, copies=sums.copies
        )
    )
    return SecAgg(vector_sum, sums.dtype, weight=sums.weight)


def _checked_protocol(comm: Communicator, config: SecureConfig, silos: int) -> str:
    with together(comm):
        protocol = choose_protocol(config, silos)
        if protocol == "additive" and config.committee > comm.size:
            raise ConfigError(
                f"secure.committee = {config.committee} is more than the {comm.size} silos there are"
            )
    return protocol


def _session(crew: Crew, config: SecureConfig, sums: Sums) -> SecureSession:
    comm = crew.comm
    identity, roster = None, None
    with together(comm):
        if bool(config.identity) != bool(config.roster):
            raise ConfigError("secure.identity and secure.roster belong together: set both, or neither")
        if config.identity:
            passphrase = read_passphrase(Path(config.passphrase_file)) if config.passphrase_file else None
            identity = Identity.load(Path(config.identity), passphrase)
            roster = Roster.load(Path(config.roster))
            if len(roster) != sums.silos:
                raise ConfigError(
                    f"{config.roster} lists {len(roster)} institutions and {sums.silos} ranks started"
                )
            number = roster.silo_of(identity.public)
            if number != crew.number:
                raise ConfigError(
                    f"{config.identity} is the key of silo {number} and this is rank {crew.number}: "
                    "start the ranks in the order of the roster"
                )
    rules = rules_for(comm, config, sums.silos)
    return open_session(crew, rules, sums.config_digest, identity=identity, roster=roster)
