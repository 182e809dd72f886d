"""What of its updates a silo has not sent yet: error feedback, from round to round."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.spec import VectorSpec
from silofl.types import Vector


class Residuals:
    """One silo's residuals, by vector and tensor, which a round's sum proposes and `accept` takes up.

    Attributes:
        values: what the next round adds, arrays by "vector/tensor"; none where nothing was lost yet.
        common: what silos have in common of earlier sums, by "vector/tensor", where the next begins with it;
            arrays that are replaced and never changed.
    """

    def __init__(self) -> None:
        self.values: dict[str, Vector] = {}
        self.common: dict[str, Vector] = {}
        self._proposed: dict[str, Vector] = {}

    def begin(self) -> None:
        """Another sum is made, perhaps once more: what an earlier one proposed is void."""
        self._proposed = {}

    def added(self, one: VectorSpec, values: Vector) -> Vector:
        """Values (d,) of a vector with what is left of earlier ones; a new array."""
        total = np.empty_like(values)
        for (name, part), (_, out) in zip(_cut(one, values), _cut(one, total), strict=True):
            np.add(part, self.values.get(name, 0), out=out)
        return total

    def propose(self, one: VectorSpec, residual: Vector) -> None:
        """What would be left of a vector (d,) if the sum counts."""
        self._proposed |= dict(_cut(one, residual))

    def accept(self) -> None:
        """The sum counts."""
        self.values |= self._proposed
        self._proposed = {}

    def load(
        self, values: Mapping[str, NDArray[np.generic]], common: Mapping[str, NDArray[np.generic]]
    ) -> None:
        """Take up what both were."""
        self.values, self.common = (
            {name: np.array(one) for name, one in given.items()} for given in (values, common)
        )


def _cut(one: VectorSpec, values: Vector) -> list[tuple[str, Vector]]:
    bounds = pairwise([0, *one.tensor_ends.tolist()])
    return [
        (f"{one.name}/{name}", values[start:stop])
        for name, (start, stop) in zip(one.tensor_names, bounds, strict=True)
    ]
