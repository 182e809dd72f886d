"""Groups of ranks, in two levels or more, and the way of a sum through them: each group passes on one part.

Pure functions of the groups and of the ranks that are there, the same on every rank. What a group has added
up for rank k outside it lies with one of its ranks, the relay, which are other ones for other k, so that all
carry alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

Groups = tuple["int | Groups", ...]
"""Silo ids, and groups of them: ((0, 1), (2, 3)), or (((0, 1), (2, 3)), ((4, 5), (6, 7)))."""
Move = tuple[int, int, int]
"""Of what is for, or from, rank k: (k, the rank that has it of a subgroup, the rank that adds it up)."""


@dataclass(frozen=True)
class Node:
    """A group; one rank alone has no children."""

    ranks: tuple[int, ...]
    """All below it, in their order there."""
    children: tuple[Node, ...] = ()


@dataclass(frozen=True)
class GroupTree:
    """The ranks of a communicator in their groups. `root` has them all."""

    root: Node
    routed: ClassVar[bool] = True
    """Whether messages pass through groups."""

    @cached_property
    def levels(self) -> tuple[tuple[Move, ...], ...]:
        """By depth, the widest groups first: what passes between the parts of a group in a sum for each rank.

        A sum takes them from the last level to the first; what a rank gives to all goes the other way, from
        the first to the last, each move backwards.
        """
        found, nodes = list[tuple[Move, ...]](), [self.root]
        while nodes := [node for node in nodes if node.children]:
            found.append(tuple(move for node in nodes for k in self._all for move in self._moves(node, k)))
            nodes = [child for node in nodes for child in node.children]
        return tuple(found)

    @cached_property
    def widest(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of each of the widest groups, ascending."""
        return tuple(tuple(sorted(node.ranks)) for node in self.root.children)

    def far(self, rank: int) -> frozenset[int]:
        """The ranks outside a rank's widest group."""
        own = next(group for group in self.widest if rank in group)
        return frozenset(self._all) - frozenset(own)

    @property
    def _all(self) -> tuple[int, ...]:
        return tuple(sorted(self.root.ranks))

    def _moves(self, node: Node, k: int) -> list[Move]:
        target = self.holder(node, k)
        sources = (self.holder(child, k) for child in node.children)
        return [(k, source, target) for source in sources if source != target]

    def holder(self, node: Node, k: int) -> int:
        """The rank of a group that has the group's part of what is for rank k: k itself, or the relay.

        A group's relay is that of one of its parts, so that nothing passes through a rank for nothing.
        """
        if k in node.ranks:
            return k
        apart = self.root
        while node.ranks[0] in apart.ranks:  # down to the part of a common group that has k and not the node
            apart = next(child for child in apart.children if k in child.ranks)
        place = apart.ranks.index(k)
        while node.children:
            chosen = node.ranks[place % len(node.ranks)]
            node = next(child for child in node.children if chosen in child.ranks)
        return node.ranks[0]


class FlatTree(GroupTree):
    """The same groups, through which nothing passes: every rank sends to every other."""

    routed: ClassVar[bool] = False

    @cached_property
    def levels(self) -> tuple[tuple[Move, ...], ...]:
        """See `GroupTree`: one level."""
        every = self._all
        return (tuple((k, source, k) for k in every for source in every if source != k),)


def tree_of(groups: Groups, members: Sequence[int]) -> GroupTree | None:
    """The tree of a communicator's ranks, whose silo ids are `members`; None where nothing is apart.

    Groups that nobody is left of are none; members that no group names are groups of their own.
    """
    named = set(silos_of(groups))
    rest = tuple(silo for silo in members if silo not in named)
    root = _node((*groups, *rest), {silo: rank for rank, silo in enumerate(members)})
    if root is None or all(not child.children for child in root.children):
        return None
    return GroupTree(root)


def _node(group: int | Groups, rank_of: dict[int, int]) -> Node | None:
    if isinstance(group, int):
        return Node((rank_of[group],)) if group in rank_of else None
    children = tuple(node for one in group if (node := _node(one, rank_of)) is not None)
    if len(children) == 1:
        return children[0]
    ranks = tuple(rank for child in children for rank in child.ranks)
    return Node(ranks, children) if children else None


def silos_of(groups: int | Groups) -> tuple[int, ...]:
    """All silo ids of groups, in their order there."""
    if isinstance(groups, int):
        return (groups,)
    return tuple(silo for one in groups for silo in silos_of(one))


def loads(text: str) -> Groups:
    """Groups from JSON. ValueError for anything else."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else int(value)

    found: Groups = tuples(json.loads(text))
    return found
