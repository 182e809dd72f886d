"""Ranks make sure, before anything else, that they are about to run the same thing."""

from __future__ import annotations

from typing import Any

import silofl
from silofl.comm.collective_errors import allgather_object, broadcast_parsed
from silofl.comm.protocol import Communicator
from silofl.config import Config, first_difference, shared_tables
from silofl.crypto.signer import has_keys, mixed_keys
from silofl.errors import MismatchError


def agree_on_version_and_config(comm: Communicator, config: Config) -> None:
    """Refuse ranks whose silofl version or shared configuration differs from rank 0's; collective.

    And ranks of which only some have an identity, which is no part of the shared configuration.
    """
    mine = {"version": silofl.__version__, "config": shared_tables(config)}
    first = broadcast_parsed(comm, mine, _version_and_config, "its configuration")
    have = allgather_object(comm, has_keys(config.secure), _compare(comm.rank, config, first))
    mixed = mixed_keys(have)
    if mixed is not None:
        raise mixed


def _version_and_config(told: Any) -> dict[str, Any]:
    return {"version": str(told["version"]), "config": dict(told["config"])}


def _compare(rank: int, config: Config, first: dict[str, Any]) -> MismatchError | None:
    if first["version"] != silofl.__version__:
        return MismatchError(
            f"silofl is version {silofl.__version__} here and {first['version']} on rank 0: "
            "install one version everywhere",
            rank=rank,
        )
    difference = first_difference(config, first["config"])
    if difference:
        return MismatchError(
            f"configurations differ: {difference.replace(' there', ' on rank 0')}; "
            "only paths, devices, the display, data.decimal, data.units and a silo's own budget may differ "
            "between ranks",
            rank=rank,
        )
    return None
