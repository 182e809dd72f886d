"""Ranks make sure that they build one model: names, shapes and constants."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from silofl.comm.collective_errors import broadcast_parsed, raise_if_any
from silofl.comm.protocol import Communicator
from silofl.errors import MismatchError
from silofl.training.flat import FlatModel


def agree_on_model(comm: Communicator, model: FlatModel) -> None:
    """Refuse ranks whose model differs from rank 0's in names, shapes or constants; collective."""
    first = broadcast_parsed(comm, model_told(model), _model, "its model")
    raise_if_any(comm, model_mismatch(comm.rank, model, *first))


def _model(told: Any) -> tuple[str, str, dict[str, str], list[list[Any]]]:
    fingerprint, description, digests, shapes = told
    return str(fingerprint), str(description), dict(digests), [_tensor(one) for one in shapes]


def _tensor(told: Any) -> list[Any]:
    name, shape = told
    return [str(name), [int(size) for size in shape]]


def model_told(model: FlatModel) -> tuple[str, str, dict[str, str], list[list[Any]]]:
    """What `model_mismatch` needs of rank 0's model."""
    return model.fingerprint(), model.describe(), model.digests, model.shapes


def model_mismatch(
    rank: int,
    model: FlatModel,
    fingerprint: str,
    description: str,
    digests: dict[str, str],
    shapes: list[list[Any]],
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
        f"the model here is not rank 0's: {model.describe()} here, {description} on rank 0"
        f"{_first_difference(model.shapes, shapes)}; "
        "data with other features, or a task that builds different models, does this",
        rank=rank,
    )


def _first_difference(here: list[list[Any]], there: list[list[Any]]) -> str:
    """The first tensor that is another, in the middle of a sentence; nothing where all are the same."""
    for one, other in zip_longest(here, there):
        if one != other:
            mine, theirs = (
                "nothing" if t is None else f"{t[0]} of shape {tuple(t[1])}" for t in (one, other)
            )
            return f", first {mine} here, {theirs} there"
    return ""
