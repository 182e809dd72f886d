"""Copies of slices on another host, for a resume without the silos whose files are lost.

A silo's file of a round has its own slice, and on several hosts the slice of the silo whose partner it is
(`by_host.partners`), which is on another: no host that is lost takes a slice with it. Every file has the
digests of all slices as their servers told them, by which a copy is checked when it is used.

What a copy has is no secret of the silo that serves the slice: vectors that all silos have, and the server's
state, which all of them are given whenever silos are lost or come back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from silofl.aggregation.recomputed import digests, refuse_change
from silofl.aggregation.shards import Shards
from silofl.comm.by_host import partners
from silofl.comm.collective_errors import allgather_parsed, raise_on_all_ranks
from silofl.comm.protocol import Communicator
from silofl.errors import CheckpointError
from silofl.types import Vector

Vectors = dict[str, Vector]
Digests = dict[str, str]
VECTORS, STRATEGY = "slices", "strategy"
KINDS = (VECTORS, STRATEGY)
Slice = dict[str, Vectors]
"""What belongs to one slice: `VECTORS`, of which all ranks have all, and the `STRATEGY`'s state."""


@dataclass(frozen=True)
class SliceCopies:
    """What one rank commits of other silos' slices.

    Attributes:
        members: the silos whose slices these are, in the order of slices.
        slices: by number, those that this rank keeps.
        known: by number, the digests of all slices, the same on every rank.
    """

    members: tuple[int, ...]
    slices: dict[int, Slice]
    known: dict[int, dict[str, Digests]]

    @property
    def common(self) -> str:
        """A digest of all slices, the same on every rank: hexadecimal."""
        text = json.dumps([self.members, sorted(self.known.items())], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def state(self) -> dict[str, Any]:
        """As a checkpoint holds it; arrays are views."""
        kept = {str(index): content for index, content in self.slices.items()}
        known = {str(index): content for index, content in self.known.items()}
        return {"members": list(self.members), "kept": kept, "known": known}

    @classmethod
    def of(cls, state: dict[str, Any]) -> SliceCopies:
        """From `state`."""
        return cls(
            tuple(state["members"]),
            {int(index): content for index, content in state["kept"].items()},
            {int(index): content for index, content in state["known"].items()},
        )


def exchange_copies(
    comm: Communicator, own: Slice, vectors_of: Callable[[int], Vectors], state_like: Callable[[int], Vectors]
) -> SliceCopies | None:
    """Have this rank's slice with its partner, and that of others with this one. Collective.

    None on every rank where all share a host.

    Args:
        comm: rank k serves slice k.
        own: of this rank's slice.
        vectors_of: the vectors of any slice, which this rank has.
        state_like: vectors of the names, types and lengths of a slice's state, (k,) each.

    Raises ProtocolError, on every rank, where a server tells another digest than a slice has.
    """
    groups = comm.host_groups()
    if len(groups) == 1:
        return None
    partner_of = partners(groups)
    partner = partner_of[comm.rank]
    kept = [index for index, one in enumerate(partner_of) if one == comm.rank]
    mine = {kind: digests(own[kind]) for kind in KINDS}
    told = allgather_parsed(comm, mine, _digests, "its slice")
    parcel = b"".join(values.tobytes() for _, values in sorted(own[STRATEGY].items()))
    given = comm.alltoall_bytes([parcel if rank == partner else b"" for rank in range(comm.size)])
    slices: dict[int, Slice] = {}
    with raise_on_all_ranks(comm):
        for index in kept:
            slices[index] = {VECTORS: vectors_of(index), STRATEGY: _cut(given[index], state_like(index))}
            for kind in KINDS:
                _refuse(comm.members[index], comm, index, slices[index][kind], told[index][kind])
    return SliceCopies(comm.members, slices, dict(enumerate(told)))


def of_slice(shards: Shards, index: int, vectors: Vectors) -> Vectors:
    """A slice of each vector, as views."""
    return {name: values[slice(*shards.of_size(len(values)).span(index))] for name, values in vectors.items()}


@dataclass(frozen=True)
class Committed:
    """Whose slices a committed round is in, and which of these silos are there to give their own."""

    members: tuple[int, ...]
    givers: tuple[int, ...]

    @property
    def lost(self) -> list[int]:
        """The numbers of the other slices."""
        return [index for index, silo in enumerate(self.members) if silo not in self.givers]


def agree_on_members(
    comm: Communicator, copies: SliceCopies | None, committed_by: tuple[int, ...], *, member: bool
) -> Committed:
    """Whose slices a round is in: `committed_by`'s, or those that its copies tell of. Collective.

    A round that silos committed without those that were lost is in slices of all of them. `member`: whether
    this rank has its own slice.
    """
    mine = [None if copies is None else list(copies.members), member]
    told = allgather_parsed(comm, mine, _members, "the slices of a round")
    listed = next((silos for silos, _ in told if silos is not None), committed_by)
    for silo, (silos, _) in zip(comm.members, told, strict=True):
        if silos not in (None, listed):
            raise CheckpointError(f"silo {silo} has another checkpoint of the round than the others", rank=0)
    givers = tuple(silo for silo, (_, there) in zip(comm.members, told, strict=True) if there)
    return Committed(listed, tuple(silo for silo in givers if silo in listed))


def give_lost(
    comm: Communicator,
    copies: SliceCopies | None,
    committed: Committed,
    like: Callable[[int], Slice],
) -> dict[int, Slice]:
    """The slices of silos that are not there, from the first rank that has a copy of each. Collective.

    `like` gives vectors of the names, types and lengths of what belongs to a slice.

    Raises, on every rank, CheckpointError where a slice has no copy left, ProtocolError where a copy is not
    what its server had told of.
    """
    kept = {} if copies is None else copies.slices
    told = allgather_parsed(comm, sorted(kept), _numbers, "its copies of slices")
    holders = {
        index: next((rank for rank, one in enumerate(told) if index in one), None) for index in committed.lost
    }
    gone = [committed.members[index] for index, holder in holders.items() if holder is None]
    if gone:
        raise CheckpointError(
            f"without silo {', '.join(map(str, gone))} the round cannot be restored, for no file that is "
            "left has a copy of their part of the model: put their files back, or those of who had the copy",
            rank=0,
        )
    found: dict[int, Slice] = {}
    for index, holder in holders.items():
        assert holder is not None
        shape = like(index)
        parcel = b""
        if holder == comm.rank:
            parcel = b"".join(
                values.tobytes() for kind in KINDS for _, values in sorted(kept[index][kind].items())
            )
        parcel = comm.broadcast_bytes(parcel, holder)
        with raise_on_all_ranks(comm):
            both = _cut(
                parcel, {(kind, name): one for kind in KINDS for name, one in sorted(shape[kind].items())}
            )
            found[index] = {kind: {name: both[kind, name] for name in shape[kind]} for kind in KINDS}
            known = {} if copies is None else copies.known[index]
            for kind in known:
                _refuse(comm.members[holder], comm, index, found[index][kind], known[kind])
    return found


def _refuse(server: int, comm: Communicator, index: int, given: Vectors, known: Digests) -> None:
    refuse_change(server, comm.members[comm.rank], f"slice {index}", given, known)


def _cut(parcel: bytes, like: dict[Any, Vector]) -> dict[Any, Vector]:
    """The vectors that a parcel has, sorted by name. CheckpointError where it has another length."""
    if len(parcel) != sum(one.nbytes for one in like.values()):
        raise CheckpointError("a copy of a slice has another length than the slice")
    found, at = {}, 0
    for name, one in sorted(like.items()):
        found[name] = np.frombuffer(parcel, one.dtype, one.size, at).copy()
        at += one.nbytes
    return found


def _digests(told: Any) -> dict[str, Digests]:
    return {kind: {str(name): str(one) for name, one in told[kind].items()} for kind in KINDS}


def _members(told: Any) -> tuple[tuple[int, ...] | None, bool]:
    silos, there = told
    return None if silos is None else tuple(map(int, silos)), there is True


def _numbers(told: Any) -> set[int]:
    return set(map(int, told))
