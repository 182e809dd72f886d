"""Sums and gatherings through groups of ranks: what arrives is everything, once, and little crosses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl.comm.group_tree import GroupTree, loads, silos_of, tree_of
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from tests.rank_groups import GROUPINGS, TWO_OF_FOUR, nested


def crossing(tree: GroupTree) -> int:
    return sum(source in tree.far(target) for level in tree.levels for _, source, target in level)


def moved(tree: GroupTree, ranks: int) -> None:
    """The naive sum and gathering of sets of ranks, by the tree's moves."""
    of = {(rank, k): {rank} for rank in range(ranks) for k in range(ranks)}
    for level in reversed(tree.levels):
        for k, target, part in [(k, target, of.pop((source, k))) for k, source, target in level]:
            assert not of[target, k] & part, "counted twice"
            of[target, k] |= part
    assert of == {(k, k): set(range(ranks)) for k in range(ranks)}
    has = {(k, k) for k in range(ranks)}
    for level in tree.levels:
        assert all((giver, k) in has and (taker, k) not in has for k, taker, giver in level)
        has |= {(taker, k) for k, taker, _ in level}
    assert len(has) == ranks * ranks


@pytest.mark.parametrize("seed", range(40))
def test_every_row_comes_to_its_rank_once_whoever_is_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    silos = rng.permutation(int(rng.integers(2, 13))).tolist()
    left = sorted(rng.choice(silos, int(rng.integers(1, len(silos) + 1)), replace=False).tolist())
    tree = tree_of(nested(silos, rng), left)
    if tree is not None:
        assert sorted(tree.root.ranks) == list(range(len(left)))
        moved(tree, len(left))


def test_one_row_of_each_group_crosses_for_every_rank_of_the_other() -> None:
    tree = tree_of(TWO_OF_FOUR, range(8))
    assert tree is not None
    assert crossing(tree) == 8, "and 32 without groups"
    assert tree.widest == ((0, 1, 2, 3), (4, 5, 6, 7))
    relays = [target for k, _, target in tree.levels[1] if k >= 4 and target < 4]
    assert sorted(set(relays)) == [0, 1, 2, 3], "all carry alike"


def test_nothing_is_apart_in_one_group_or_where_one_is_left() -> None:
    assert tree_of((0, 1, 2), range(3)) is None
    assert tree_of(((0, 1, 2),), range(3)) is None
    assert tree_of(TWO_OF_FOUR, (0, 1, 3)) is None
    assert tree_of(TWO_OF_FOUR, (3, 7)) is None
    assert silos_of(loads("[[0, [1, 2]], [3]]")) == (0, 1, 2, 3)
    with pytest.raises(ValueError, match="invalid literal"):
        loads('["x"]')


@pytest.mark.parametrize("groups", GROUPINGS, ids=str)
def test_gatherings_give_what_they_give_without_groups(groups: Any) -> None:
    ranks = len(silos_of(groups))
    counts = [3 * (k % 4) for k in range(ranks)]

    def rank(comm: Communicator) -> tuple[Any, ...]:
        payload = bytes([comm.rank]) * counts[comm.rank]
        own, found = np.full(counts[comm.rank], comm.rank, np.uint16), list[Any]()
        for now in ((), groups):
            comm.arrange(now)
            whole, before = np.empty(sum(counts), np.uint16), comm.bytes_between_groups
            gathered = comm.allgather_bytes(payload)
            comm.allgather(own, whole, counts)
            found.append((gathered, whole.tolist(), comm.bytes_between_groups - before))
        return tuple(found)

    every = run_in_threads(ranks, rank)
    assert all(one[0][:2] == one[1][:2] == every[0][0][:2] for one in every)
    assert all(one[0][2] == 0 for one in every)
    tree = tree_of(groups, range(ranks))
    assert tree is not None
    passed = sum(3 * counts[k] for level in tree.levels for k, a, b in level if a in tree.far(b))
    assert sum(one[1][2] for one in every) == passed


def test_without_routes_what_passes_between_groups_is_counted_alone() -> None:
    def rank(comm: Communicator) -> list[int]:
        found = []
        for routed in (False, True):
            comm.arrange(TWO_OF_FOUR, routed=routed)
            before = comm.bytes_between_groups
            assert comm.allgather_bytes(b"12345") == [b"12345"] * 8
            comm.alltoall_bytes([b"x"] * 8)
            found.append(comm.bytes_between_groups - before)
        return found

    every = run_in_threads(8, rank)
    flat, routed = (sum(one[k] for one in every) for k in range(2))
    assert (flat, routed) == (32 * 5 + 32, 8 * 5 + 32)
