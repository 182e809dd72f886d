"""Largest magnitudes of tensors: measured once a round, before anything is shared."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.formats import format_of
from silofl.aggregation.spec import AggregationSpec
from silofl.types import Contribution
from silofl_kernels import max_abs

Magnitudes = Mapping[str, NDArray[np.float64]]
"""By vector: the largest magnitude of each tensor, float64 (m,); infinite where a value is not finite."""
_NONE = np.empty(0)


def measure(contribution: Contribution, spec: AggregationSpec) -> Magnitudes:
    """The largest magnitude of each tensor of the vectors that are rounded or weighed; not collective."""
    return {
        one.name: max_abs(contribution.vectors[one.name], one.tensor_ends)
        for one in spec.vectors
        if not format_of(one).in_words
    }


def first_nonfinite(magnitudes: Magnitudes, spec: AggregationSpec) -> str | None:
    """The first tensor that has a value which is not finite; None if all are."""
    for one in spec.vectors:
        found = np.flatnonzero(~np.isfinite(magnitudes.get(one.name, _NONE)))
        if found.size:
            return one.tensor_names[int(found[0])]
    return None
