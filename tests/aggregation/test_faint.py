"""An exact vector so small that the unit of its words takes a part of it is told of; zeros are not."""

from __future__ import annotations

import numpy as np
import pytest

from silofl.types import Contribution
from tests.aggregation.harness import Case, VectorSpec, outcomes

ENDS = np.array([2, 5], np.int64)
VECTORS = (VectorSpec("x", 70), VectorSpec("b", 5, "exact", tensors=("var", "mean"), ends=ENDS))


def of(*scales: tuple[float, float], dtype: type = np.float32) -> Case:
    """Of each silo the magnitudes of its two exact tensors."""
    given = [
        Contribution(
            {"x": np.ones(70, dtype), "b": np.repeat(scale, (2, 3)).astype(dtype) * dtype(-1) ** np.arange(5)}
        )
        for scale in scales
    ]
    return Case(VECTORS, given, [10] * len(scales), dtype=dtype)


@pytest.mark.parametrize("protocol", ["secagg", "additive"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_whose_largest_value_is_near_the_unit_are_counted(protocol: str, dtype: type) -> None:
    """A silo's values are weighed by its third of the samples first."""
    case = of((1.0, 1e-37), (1e-30, 0.0), (2e-27, 1e-38), dtype=dtype)
    for one in outcomes(case, protocol):
        assert one.quality.faint == {"var": 1, "mean": 2}
        assert not np.any(one.mean["b"][2:]), "lost, and told"


def test_nothing_is_told_of_what_is_large_enough_or_nothing() -> None:
    for one in outcomes(of((1.0, 0.0), (1e-26, 0.0), (3.0, 0.0)), "secagg"):
        assert not one.quality.faint
