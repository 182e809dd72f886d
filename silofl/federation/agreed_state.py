"""What all silos have the same of in their checkpoints, agreed on as a run is resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from silofl.comm.collective_errors import allgather_parsed
from silofl.comm.elastic_group import ElasticGroup
from silofl.errors import CheckpointError

T = TypeVar("T")


def agreed_state(group: ElasticGroup, own: Any, parse: Callable[[Any], T], what: str) -> T:
    """What `parse` makes of what silos have kept (JSON), None on those that have not; collective.

    CheckpointError, on every rank, where two have kept something else, or none has kept any.
    """

    def tell() -> tuple[list[T | None], tuple[int, ...]]:
        told = allgather_parsed(group.comm, own, lambda sent: None if sent is None else parse(sent), what)
        return told, group.members

    told, members = group.step(tell)
    kept = {silo: one for silo, one in zip(members, told, strict=True) if one is not None}
    if not kept:
        raise CheckpointError(f"no silo has kept {what}: it is in no checkpoint that is here", rank=0)
    first, found = next(iter(kept.items()))
    for silo, one in kept.items():
        if one != found:
            raise CheckpointError(
                f"silo {silo} has kept something else than silo {first} of {what}: one of the two "
                "checkpoints was changed; put it back from a copy",
                rank=0,
            )
    return found
