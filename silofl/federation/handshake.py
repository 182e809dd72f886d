"""Ranks make sure, before anything else, that they are about to run the same thing."""

from __future__ import annotations

from typing import Any

import silofl
from silofl.comm.collective_errors import allgather_object, broadcast_parsed, raise_if_any
from silofl.comm.protocol import Communicator
from silofl.config import Config, first_difference
from silofl.crypto.signer import has_keys, mixed_keys
from silofl.errors import MismatchError
from silofl.training.flat import FlatModel


def agree_on_version_and_config(comm: Communicator, config: Config) -> None:
    """Refuse ranks whose silofl version or shared configuration differs from rank 0's; collective.

    And ranks of which only some have an identity, which is no part of the shared configuration.
    """
    mine = {"version": silofl.__version__, "config": config.model_dump(mode="json")}
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
            "only paths, devices, the display and data.decimal may differ between ranks",
            rank=rank,
        )
    return None


def agree_on_model(comm: Communicator, model: FlatModel) -> None:
    """Refuse ranks whose model differs from rank 0's in names, shapes or constants; collective."""
    first = broadcast_parsed(comm, model_told(model), _model, "its model")
    raise_if_any(comm, model_mismatch(comm.rank, model, *first))


def _model(told: Any) -> tuple[str, str, dict[str, str]]:
    fingerprint, description, digests = told
    return str(fingerprint), str(description), dict(digests)


def model_told(model: FlatModel) -> tuple[str, str, dict[str, str]]:
    """What `model_mismatch` needs of rank 0's model."""
    return model.fingerprint(), model.describe(), model.digests


def model_mismatch(
    rank: int, model: FlatModel, fingerprint: str, description: str, digests: dict[str, str]
) -> MismatchError | None:
    """The error of a rank whose model is not rank 0's, of which `model_told` tells."""
    if model.fingerprint() == fingerprint:
        return None
    other = [name for name, digest in model.digests.items() if digests.get(name, digest) != digest]
    if other:
        return MismatchError(
            f"{other[0]} of the model has other values here than on rank 0, and is not averaged: build it "
            "with random numbers of torch, without data, or let the task's attribute private match its name",
            rank=rank,
        )
    return MismatchError(
        f"the model here is not rank 0's: {model.describe()} here, {description} on rank 0; "
        "data with other features, or a task that builds different models, does this",
        rank=rank,
    )
