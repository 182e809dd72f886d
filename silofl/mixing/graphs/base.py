"""What a communication graph is: which nodes send to which, in each round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Edges = NDArray[np.bool_]
"""(n, n): row i, column j says whether node j sends to node i; the diagonal is False."""


class Graph(ABC):
    """A communication graph. A member is a @final @dataclass(frozen=True) whose fields [topology] may give.

    Nodes are the places 0 to n - 1 of the silos that are there, in the order of their numbers.
    """

    directed: ClassVar[bool] = False
    """Whether a node may send to one that does not send back."""

    def refusal(self, silos: int) -> str | None:
        """Why so many silos cannot have this graph, naming key, value and remedy; None where they can."""
        return None

    def period(self, nodes: int) -> int:
        """After how many rounds edges are those of the first again; 1 where they never change."""
        return 1

    @abstractmethod
    def edges(self, silos: tuple[int, ...], step: int, seed: int) -> Edges:
        """The edges among `silos`, ascending, in round `step`, from 0; the same for the same `seed`."""


def circulant(nodes: int, hops: tuple[int, ...]) -> Edges:
    """Edges from every node j to the nodes j + hop, around."""
    edges = np.zeros((nodes, nodes), bool)
    for hop in hops:
        edges |= np.roll(np.eye(nodes, dtype=bool), hop, axis=0)
    np.fill_diagonal(edges, val=False)
    return edges


def reaches_all(edges: Edges) -> bool:
    """Whether what any node has reaches every other, over several rounds."""
    return len(parts(edges)) == 1


def parts(edges: Edges) -> list[list[int]]:
    """The nodes in parts, each ascending, within which what any node has reaches all others."""
    reach = edges | np.eye(len(edges), dtype=bool)
    for _ in range(max(len(edges) - 1, 1).bit_length()):
        reach = reach @ reach
    both, found, seen = reach & reach.T, list[list[int]](), set[int]()
    for node in range(len(edges)):
        if node not in seen:
            found.append([int(other) for other in np.flatnonzero(both[node])])
            seen.update(found[-1])
    return found
