"""Which protocol adds up the updates, as [secure] says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from silofl.aggregation.additive import Additive
from silofl.aggregation.base import Aggregator
from silofl.aggregation.plain import PlainAggregator
from silofl.aggregation.rules import rules_for
from silofl.aggregation.secagg import SecAgg, SecureVectorSum
from silofl.aggregation.session import SecureSession, open_session
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


def build(comm: Communicator, config: SecureConfig, sums: Sums) -> Aggregator:
    """The aggregator that [secure] names; collective."""
    with together(comm):
        protocol = choose_protocol(config, comm.size)
    if protocol == "plain":
        return PlainAggregator(comm, sums.size, sums.dtype, weight=sums.weight)
    with together(comm):
        if protocol == "additive" and config.committee > comm.size:
            raise ConfigError(
                f"secure.committee = {config.committee} is more than the {comm.size} silos there are"
            )
    session = _session(comm, config, sums.config_digest)
    if protocol == "additive":
        return Additive(
            session, sums.size, weight=sums.weight, members=config.committee, value_range=config.range
        )
    seed = sums.seed if config.rounding == "stochastic" else None
    vector_sum = SecureVectorSum(session, sums.size, value_range=config.range, rounding_seed=seed)
    return SecAgg(vector_sum, weight=sums.weight)


def _session(comm: Communicator, config: SecureConfig, config_digest: bytes) -> SecureSession:
    identity, roster = None, None
    with together(comm):
        if bool(config.identity) != bool(config.roster):
            raise ConfigError("secure.identity and secure.roster belong together: set both, or neither")
        if config.identity:
            passphrase = read_passphrase(Path(config.passphrase_file)) if config.passphrase_file else None
            identity = Identity.load(Path(config.identity), passphrase)
            roster = Roster.load(Path(config.roster))
            if len(roster) != comm.size:
                raise ConfigError(
                    f"{config.roster} lists {len(roster)} institutions and {comm.size} ranks started"
                )
            number = roster.silo_of(identity.public)
            if number != comm.rank:
                raise ConfigError(
                    f"{config.identity} is the key of silo {number} and this is rank {comm.rank}: "
                    "start the ranks in the order of the roster"
                )
    return open_session(comm, rules_for(comm, config), config_digest, identity=identity, roster=roster)
