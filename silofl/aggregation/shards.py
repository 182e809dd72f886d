"""Ownership of a vector: which rank serves which slice, and which one after a rank failure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise

from silofl.comm.protocol import Communicator

ALIGNMENT = 64
"""Slices start at multiples of this many values: whole cache lines, whole cipher blocks."""
MAX_REPLICAS = 2


def slice_bounds(size: int, ranks: int) -> list[int]:
    """Offsets b (ranks + 1,) with slice k = [b[k], b[k + 1]); lengths differ only at the end.

    Trailing slices are shorter, or empty where the vector is short.
    """
    length = -(-size // ranks)
    length += -length % ALIGNMENT
    return [min(k * length, size) for k in range(ranks + 1)]


def slice_counts(bounds: Sequence[int]) -> list[int]:
    """Length of every slice."""
    return [end - start for start, end in pairwise(bounds)]


@dataclass(frozen=True)
class Shards:
    """A vector of `size` values in one slice for each of `members`, the numbers of ranks, ascending.

    Slice k is served by members[k]. `replica_count` replicas of what belongs to it lie with the nearest other
    members, the first of which takes it over when its server fails; a member that serves several slices
    serves neighbours. The `checkers` of a slice are the members behind its server, the first member behind
    the last, so that all have equally much to check: they keep replicas, too.
    """

    size: int
    members: tuple[int, ...]
    replica_count: int = 0
    servers: int | None = None
    """How many members serve, the first ones; the others' slices are empty. None: all."""
    offsets: tuple[int, ...] | None = None
    """Where slices begin and end, (n + 1,), if not by the size alone."""
    checkers: int = 0
    """How many members check what a server makes of its slice."""
    sole: int | None = None
    """The member that serves everything: the others' slices are empty. None: no such member."""
    near: tuple[tuple[int, ...], ...] = ()
    """Groups of neighbours; checkers, replicas and who takes over are of a slice's own group first."""

    @cached_property
    def bounds(self) -> list[int]:
        """Offsets (n + 1,) of the slices."""
        if self.offsets is not None:
            return list(self.offsets)
        if self.sole in self.members:
            before = self.members.index(self.sole)
            return [0] * (before + 1) + [self.size] * (len(self.members) - before)
        serving = len(self.members) if self.servers is None else self.servers
        return slice_bounds(self.size, serving) + [self.size] * (len(self.members) - serving)

    def of_size(self, size: int) -> Shards:
        """Slices of another vector, served by the same members."""
        return replace(self, size=size, offsets=None)

    def span(self, index: int) -> tuple[int, int]:
        """Where a slice begins and ends."""
        return self.bounds[index], self.bounds[index + 1]

    def replicas(self, index: int) -> tuple[int, ...]:
        """The members that keep copies of what belongs to a slice, nearest first, then other checkers."""
        nearest = self._orders[index][1 : 1 + self.replica_count]
        return tuple(dict.fromkeys([*nearest, *self._behind(index)[: self.checkers]]))

    def checked_by(self, index: int, left: Collection[int]) -> tuple[int, ...]:
        """The members of those left that check a slice: as many as there should be, or as keep replicas."""
        kept, server = self.replicas(index), self.server(index, left)
        able = [member for member in self._behind(index) if member in kept and member in left]
        return tuple(member for member in able if member != server)[: self.checkers]

    def server(self, index: int, left: Collection[int]) -> int:
        """The member of those left that serves a slice."""
        return next(member for member in self._orders[index] if member in left)

    def slices_of(self, member: int, left: Collection[int]) -> list[int]:
        """The slices, ascending and adjacent, that a member serves when only `left` are left."""
        return [index for index in range(len(self.members)) if self.server(index, left) == member]

    def owned_ranges(self, left: Sequence[int]) -> list[int]:
        """Offsets (len(left) + 1,) of what each of those left serves, in their order."""
        ends = [self.bounds[max(self.slices_of(member, left)) + 1] for member in left]
        return [0, *ends]

    def _behind(self, index: int) -> tuple[int, ...]:
        """All members but a slice's own, from the next one on, around; those of its group first."""
        group = self._group(index)
        behind = self.members[index + 1 :] + self.members[:index]
        return tuple(sorted(behind, key=lambda member: member not in group))

    @cached_property
    def _orders(self) -> list[list[int]]:
        """Of every slice: who would serve it, were those before dead; asked for many times in a round."""
        return [self._nearest(index) for index in range(len(self.members))]

    def _nearest(self, index: int) -> list[int]:
        """All members by their distance to a slice, the later one first of two equally far.

        Those of its group first, where that is a row of neighbours: what a member takes over is adjacent.
        """
        members, group = self.members, self._group(index)
        nearest = [members[place] for place in _by_distance(len(members), index)]
        places = [members.index(member) for member in group]
        if len(places) != max(places) - min(places) + 1:
            return nearest
        return sorted(nearest, key=lambda member: member not in group)

    def _group(self, index: int) -> tuple[int, ...]:
        """The members of a slice's group; all where there are none."""
        own = self.members[index]
        group = next((group for group in self.near if own in group), self.members)
        return tuple(member for member in group if member in self.members)


def near_of(comm: Communicator) -> tuple[tuple[int, ...], ...]:
    """The widest groups of a communicator's ranks, by silo id; none where messages pass through none."""
    tree = comm.tree
    widest = () if tree is None or not tree.routed else tree.widest
    return tuple(tuple(comm.members[rank] for rank in group) for group in widest)


@cache
def _by_distance(count: int, index: int) -> tuple[int, ...]:
    """Places 0 to count - 1 by their distance to `index`, the later one first of two equally far."""
    return tuple(sorted(range(count), key=lambda place: (abs(place - index), index - place)))
