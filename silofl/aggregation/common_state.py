"""What silos have in common of earlier sums, given to those that were not there, or have lost it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from silofl.aggregation.residuals import Residuals
from silofl.comm.collective_errors import allgather_parsed
from silofl.comm.elastic_group import ElasticGroup
from silofl.errors import ProtocolError
from silofl.types import Vector

Arrays = Mapping[str, Vector]


def share(group: ElasticGroup, residuals: Residuals) -> None:
    """Let silos that have nothing in common with the others have their `Residuals.common`. Collective.

    ProtocolError, on every rank, names two silos that have not the same.
    """
    given = group.step(lambda: _given(group, residuals.common))
    if not residuals.common:
        residuals.common = given


def _given(group: ElasticGroup, own: Arrays) -> dict[str, Vector]:
    """What all have, where this silo has nothing and any other has something; else empty."""
    comm, what = group.comm, "what it has of earlier sums"
    told = allgather_parsed(comm, _digest(own) if own else "", str, what)
    holders = [place for place, digest in enumerate(told) if digest]
    if not holders:
        return {}
    first = holders[0]
    for place in holders:
        if told[place] != told[first]:
            raise _unlike(comm.members[first], comm.members[place])
    if len(holders) == comm.size:
        return {}
    every = allgather_parsed(comm, _written(own) if comm.rank == first else {}, _read, what)
    if _digest(every[first]) != told[first]:
        raise _unlike(comm.members[first], comm.members[first])
    return every[first]


def _unlike(one: int, other: int) -> ProtocolError:
    said = (
        f"silos {one} and {other} differ in"
        if one != other
        else f"silo {one} gives something else than it told of"
    )
    return ProtocolError(
        f"{said} what earlier sums left to all: one lies or has another checkpoint; nothing was "
        "trained on it",
        sender=other,
        rank=0,
    )


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(repr((name, str(values.dtype), values.shape)).encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _written(arrays: Arrays) -> dict[str, Any]:
    """As JSON."""
    return {
        name: [str(values.dtype), values.shape, base64.b64encode(values.tobytes()).decode()]
        for name, values in arrays.items()
    }


def _read(told: Any) -> dict[str, Vector]:
    """Of `_written`; what is none raises."""
    found = {}
    for name, (dtype, shape, content) in told.items():
        if dtype not in ("float32", "float64"):
            raise ValueError(dtype)
        values = np.frombuffer(base64.b64decode(content, validate=True), dtype)
        found[str(name)] = values.reshape([int(size) for size in shape]).copy()
    return found
