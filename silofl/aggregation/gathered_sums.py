"""All of a sum on every rank, from the ranks that serve its slices; those that check a slice compare it."""

from __future__ import annotations

import numpy as np

from silofl.aggregation.base import Aggregator
from silofl.aggregation.compressed import WholeSums
from silofl.aggregation.recomputed import refuse_difference
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.protocol import Communicator


def gather_sums(comm: Communicator, silo: int, sums: Aggregator) -> bool:
    """Have `sums` take all pieces of its last sum, if that is one of `WholeSums`; whether it is. Collective.

    ProtocolError, on every rank, names the server of a piece that is not what a rank that checks its slice
    gets for it from the masked sum that it has held since before anybody could read one.
    """
    if not isinstance(sums, WholeSums):
        return False
    shards, left = sums.served, comm.members
    every = range(len(shards.members))
    served = shards.slices_of(silo, left)
    checked = [index for index in every if silo in shards.checked_by(index, left)]
    with raise_on_all_ranks(comm):
        own = {index: sums.pieces(index) for index in {*served, *checked}}
    gathered = {}
    for name, piece in own[served[0]].items():
        counts = sums.counts(name)
        whole = np.empty(sum(counts), piece.dtype)
        mine = np.concatenate([own[index][name] for index in served])
        by_rank = [sum(counts[index] for index in shards.slices_of(member, left)) for member in left]
        comm.allgather(mine, whole, by_rank)
        gathered[name] = whole
    with raise_on_all_ranks(comm):
        for index in checked:
            given = {}
            for name, whole in gathered.items():
                counts = sums.counts(name)
                start = sum(counts[:index])
                given[name] = whole[start : start + counts[index]]
            refuse_difference(shards.server(index, left), silo, f"slice {index}", given, own[index])
        sums.take(gathered)
    return True
