"""Complete: every node sends to every other."""

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.mixing.graphs.base import Edges, Graph


@final
@dataclass(frozen=True)
class Complete(Graph):
    """The complete graph, whose weights 1/n give the exact mean in one round."""

    def edges(self, silos: tuple[int, ...], step: int, seed: int) -> Edges:
        """See `Graph`."""
        return ~np.eye(len(silos), dtype=bool)
