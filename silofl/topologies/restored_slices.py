"""Shared vectors and the server's state again, from slices that silos committed and copies of lost ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from silofl.aggregation.recomputed import refuse_change
from silofl.aggregation.shards import Shards, slice_counts
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.strategies.base import State
from silofl.topologies.slice_copies import (
    STRATEGY,
    VECTORS,
    Slice,
    SliceCopies,
    agree_on_members,
    give_lost,
    of_slice,
)
from silofl.topologies.slice_states import SliceStates, gather_parts
from silofl.types import Vector

Vectors = dict[str, Vector]


def restore_slices(
    group: ElasticGroup,
    state: Mapping[str, Any] | None,
    committed_by: tuple[int, ...],
    vectors: Vectors,
    states: SliceStates,
    parameters: int,
) -> None:
    """Take up what a round's slices hold: in `vectors`, and this rank's slices in `states`. Collective.

    Args:
        state: what this rank committed of the round, by `ShardedServer.state`; None where it did not.
        committed_by: the silos that committed it.
        vectors: every vector that ranks hold in full, (k,) each; all their values are replaced.
        parameters: by how many values slices are cut.

    Raises, on every rank, CheckpointError where a slice has no copy left, ProtocolError where one is not as
    silos that checked it, or its server, knew it.
    """
    copies = SliceCopies.of(state["copies"]) if state is not None and "copies" in state else None
    member = state is not None
    agreed = group.step(lambda: agree_on_members(group.comm, copies, committed_by, member=member))
    committed = states.resharded(Shards(parameters, agreed.members, sole=states.shards.sole))
    if state is not None:
        committed.load_own(state[STRATEGY])
    shards = committed.shards

    def like(index: int) -> Slice:
        return {VECTORS: of_slice(shards, index, vectors), STRATEGY: committed.fresh(index)}

    given = group.step(lambda: give_lost(group.comm, copies, agreed, like)) if agreed.lost else {}
    committed.accept({index: one[STRATEGY] for index, one in given.items()})
    served = {silo: shards.slices_of(silo, agreed.givers) for silo in agreed.givers}
    for name, vector in vectors.items():
        counts = slice_counts(shards.of_size(len(vector)).bounds)
        lengths = {silo: sum(counts[k] for k in slices) for silo, slices in served.items()}
        mine = [
            given[k][VECTORS][name] if state is None or k in given else state[VECTORS][name]
            for k in served.get(group.silo_id, [])
        ]
        vector[:] = group.step(partial(gather_from, group, mine, lengths, vector.dtype))
    whole = group.step(lambda: committed.gather_full(group.comm, agreed.givers))
    known = {} if state is None else state.get("checked", {})  # rounds of earlier versions have none
    group.step(lambda: _refuse_change(group, known, vectors, whole, shards))
    states.load_full(whole)


def gather_from(
    group: ElasticGroup, mine: list[Vector], lengths: dict[int, int], dtype: np.dtype[Any]
) -> Vector:
    """The parts of all silos in their order, so many values of each; none of one not named. Collective."""
    return gather_parts(group.comm, mine, [lengths.get(number, 0) for number in group.members], dtype)


def _refuse_change(
    group: ElasticGroup, known: dict[str, Any], vectors: Vectors, whole: State, committed: Shards
) -> None:
    """Raise ProtocolError, on every rank, unless all slices are as those that checked them knew them."""
    with raise_on_all_ranks(group.comm):
        for index, digest_of in known.items():
            server, place = committed.members[int(index)], f"slice {index}"
            for kind, values in ((VECTORS, vectors), (STRATEGY, whole)):
                given = of_slice(committed, int(index), values)
                refuse_change(server, group.silo_id, place, given, digest_of[kind])
