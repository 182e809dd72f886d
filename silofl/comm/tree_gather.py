"""What every rank gives to all, through groups: it crosses to each group once, and is passed on there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.comm.group_tree import GroupTree

Parts = list[NDArray[np.uint8]]
Level = tuple[list[tuple[NDArray[Any], int]], dict[int, tuple[NDArray[Any], Parts]]]
"""What this rank sends, with the receivers; by sender: what comes, and the parts that it is made of."""


def messages(tree: GroupTree, parts: Parts, rank: int) -> Iterator[Level]:
    """One rank's messages, level by level; those of a level have parts that came by the one before.

    `parts` are every rank's, uint8 (k,), of which this rank has its own at first.
    """
    for level in tree.levels:
        to, of = dict[int, list[int]](), dict[int, list[int]]()
        for number, taker, giver in level:
            if giver == rank:
                to.setdefault(taker, []).append(number)
            if taker == rank:
                of.setdefault(giver, []).append(number)
        sends = [(np.concatenate([parts[k] for k in numbers]), taker) for taker, numbers in to.items()]
        targets = {giver: [parts[k] for k in numbers] for giver, numbers in of.items()}
        yield sends, {giver: (np.empty(sum(map(len, own)), np.uint8), own) for giver, own in targets.items()}


def take(array: NDArray[Any], targets: Parts) -> None:
    """Write what came to the parts that it is made of."""
    ends = [0, *accumulate(map(len, targets))]
    for target, (start, stop) in zip(targets, pairwise(ends), strict=True):
        target[:] = array[start:stop]
