"""Which ranks share a host: what many of them have to tell another host crosses to it once.

What may not be lost with a host lies with a `partners` on another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from silofl.comm.protocol import Communicator


@dataclass(frozen=True)
class Hosts:
    """The ranks of a communicator by host, and one of this host's alone.

    Between two hosts every rank has one partner for each rank of the other: see `relay`.
    """

    groups: tuple[tuple[int, ...], ...]
    """Ranks of each host, ascending; hosts in the order of their first ranks. The same on every rank."""
    rank: int
    """This one."""
    own: Communicator
    """Of the ranks of this rank's host, in their order."""

    @cached_property
    def here(self) -> tuple[int, ...]:
        """The ranks of this host."""
        return next(group for group in self.groups if self.rank in group)

    @cached_property
    def elsewhere(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of each other host."""
        return tuple(group for group in self.groups if self.rank not in group)

    def relay(self, rank: int, group: tuple[int, ...]) -> int:
        """The rank among `group`, a host's, that takes and gives there what `rank` of another has to do with.

        Ranks of a host have relays of their own where there are enough, so that all carry alike.
        """
        own = next(one for one in self.groups if rank in one)
        return group[own.index(rank) % len(group)]

    @cached_property
    def relays(self) -> tuple[int, ...]:
        """This rank's, one on each other host."""
        return tuple(self.relay(self.rank, group) for group in self.elsewhere)

    @cached_property
    def charges(self) -> tuple[int, ...]:
        """The ranks of other hosts whose relay this rank is."""
        return self.charges_of(self.rank)

    def charges_of(self, relay: int) -> tuple[int, ...]:
        """The ranks of other hosts whose relay a rank of this host is."""
        return tuple(
            rank for group in self.elsewhere for rank in group if self.relay(rank, self.here) == relay
        )


def partners(groups: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """For each rank another one, on another host where there are several; the next rank on one host.

    Each rank is the partner of one, unless a host has more than half of all ranks: then those elsewhere share
    them as evenly as can be. `groups` are the ranks by host, ascending. A lone rank is its own.
    """
    ranks = [rank for group in groups for rank in group]
    largest = max(groups, key=len)
    elsewhere = [rank for rank in ranks if rank not in largest]
    found = {}
    if elsewhere and 2 * len(largest) > len(ranks):
        found = {rank: elsewhere[place % len(elsewhere)] for place, rank in enumerate(largest)}
        found |= {rank: largest[place] for place, rank in enumerate(elsewhere)}
    else:  # around all ranks in the order of hosts, by so many that none meets its own host
        shift = len(largest) if elsewhere else 1
        found = {rank: ranks[(place + shift) % len(ranks)] for place, rank in enumerate(ranks)}
    return tuple(found[rank] for rank in range(len(ranks)))


def by_host(firsts: list[int]) -> tuple[tuple[int, ...], ...]:
    """Ranks by host from the first rank of each one's host."""
    return tuple(
        tuple(rank for rank, first in enumerate(firsts) if first == one) for one in sorted(set(firsts))
    )
