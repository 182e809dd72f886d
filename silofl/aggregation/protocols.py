"""Which protocol adds up the updates, as [secure] says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from silofl.aggregation.additive import Additive
from silofl.aggregation.agreed_rules import rules_for
from silofl.aggregation.base import WordAggregator
from silofl.aggregation.plain import PlainAggregator
from silofl.aggregation.secagg import SecAgg, SecureVectorSum
from silofl.aggregation.secure_session import SecureSession, open_session
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.config import SecureConfig
from silofl.crypto.identity import Identity, read_passphrase
from silofl.crypto.roster import Roster
from silofl.errors import ConfigError


@dataclass(frozen=True)
class AggregationSpec:
    """What an aggregator is for: vectors of `size` values of `dtype`, from a silo of `weight` samples."""

    size: int
    dtype: np.dtype[np.floating]
    weight: int
    seed: int
    config_digest: bytes
    silos: int
    """How many silos the run has in all."""
    replica_count: int = 0
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


def build(group: ElasticGroup, config: SecureConfig, sums: AggregationSpec) -> WordAggregator:
    """The aggregator that [secure] names, for the ranks that there are now; collective.

    `auto` is settled by how many silos the run has in all: it does not change with losses.
    """
    protocol = group.step(lambda: _checked_protocol(group.comm, config, sums.silos))
    if protocol == "plain":
        return group.step(
            lambda: PlainAggregator(
                group, sums.size, sums.dtype, weight=sums.weight, replica_count=sums.replica_count
            )
        )
    session = group.step(lambda: _session(group, config, sums))
    if protocol == "additive":
        return group.step(
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
    vector_sum = group.step(
        lambda: SecureVectorSum(
            session, sums.size, value_range=config.range, rounding_seed=seed, replica_count=sums.replica_count
        )
    )
    return SecAgg(vector_sum, sums.dtype, weight=sums.weight)


def _checked_protocol(comm: Communicator, config: SecureConfig, silos: int) -> str:
    with raise_on_all_ranks(comm):
        protocol = choose_protocol(config, silos)
        if protocol == "additive" and config.committee > comm.size:
            raise ConfigError(
                f"secure.committee = {config.committee} is more than the {comm.size} silos there are"
            )
    return protocol


def _session(group: ElasticGroup, config: SecureConfig, sums: AggregationSpec) -> SecureSession:
    comm = group.comm
    identity, roster = None, None
    with raise_on_all_ranks(comm):
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
            if number != group.silo_id:
                raise ConfigError(
                    f"{config.identity} is the key of silo {number} and this is rank {group.silo_id}: "
                    "start the ranks in the order of the roster"
                )
    rules = rules_for(comm, config, sums.silos)
    return open_session(group, rules, sums.config_digest, identity=identity, roster=roster)
