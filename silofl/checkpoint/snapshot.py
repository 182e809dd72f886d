"""A silo's state as it is at one instant, while its arrays go on to change."""

from __future__ import annotations

from typing import Any

import numpy as np

from silofl.checkpoint.tree import Arrays, pack


class Snapshot:
    """Copies state trees into memory of its own, the same for every round.

    Fresh memory costs a fault for each of its pages: copying into pages that are there takes half the time.
    """

    def __init__(self) -> None:
        self._arrays: Arrays = {}

    def take(self, tree: dict[str, Any]) -> tuple[Any, Arrays]:
        """A tree's JSON skeleton and copies of its arrays, which are valid until the next call.

        Raises TypeError as `pack` does.
        """
        skeleton, live = pack(tree)
        kept, self._arrays = self._arrays, {}
        for name, array in live.items():
            copy = kept.get(name)
            if copy is None or copy.shape != array.shape or copy.dtype != array.dtype:
                copy = np.empty_like(array)
            np.copyto(copy, array)
            self._arrays[name] = copy
        return skeleton, self._arrays
