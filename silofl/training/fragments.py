"""Fragments of a model: whole tensors, one after another in its order, as equally long as that allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silofl.errors import ConfigError


@dataclass(frozen=True)
class Fragment:
    """One of them: which of the parameters' tensors, and which of their P values, both adjacent."""

    tensors: slice
    values: slice

    @property
    def size(self) -> int:
        """Number of values."""
        return int(self.values.stop - self.values.start)


def fragments_of(ends: NDArray[np.int64], count: int) -> tuple[Fragment, ...]:
    """Cut tensors that end at `ends` (m,) of P values into `count` fragments, at least one tensor each.

    Fragment k, from 1, ends with the tensor whose end is nearest to k P / count, the earlier of two equally
    near, that leaves a tensor to each of the others. Raises ConfigError where `count` is above m.
    """
    if count > len(ends):
        tensors = "1 tensor" if len(ends) == 1 else f"{len(ends)} tensors"
        raise ConfigError(
            f"strategy.fragments = {count} cuts between whole tensors, and the task's model has {tensors} to "
            "train: lower it"
        )
    total, cuts = int(ends[-1]), [0]
    for number in range(1, count):
        able = range(cuts[-1] + 1, len(ends) - (count - number) + 1)
        cuts.append(min(able, key=lambda cut: abs(int(ends[cut - 1]) * count - total * number)))
    cuts.append(len(ends))
    bounds = [0, *(int(ends[cut - 1]) for cut in cuts[1:])]
    return tuple(Fragment(slice(cuts[k], cuts[k + 1]), slice(bounds[k], bounds[k + 1])) for k in range(count))
