"""The plain mean: the reference's bits, whatever the chunks and the exchange."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from silofl.aggregation.plain import PlainAggregator
from silofl.aggregation.shards import ALIGNMENT, slice_bounds, slice_counts
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import DataError
from silofl.types import Contribution
from tests.exchange_ways import WAYS, use


@pytest.mark.covering(1)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("silos", [1, 2, 5])
@pytest.mark.parametrize("chunk", [1, 100, 1 << 16])
@pytest.mark.parametrize("way", WAYS)
def test_the_mean_is_the_sum_in_rank_order_in_float64(
    dtype: type, silos: int, chunk: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(way, monkeypatch)
    size, weights = 333, [3, 1, 400, 7, 10_000_000][:silos]
    values = [np.random.default_rng(k).standard_normal(size).astype(dtype) for k in range(silos)]

    def rank(comm: Communicator) -> NDArray[Any]:
        vectors = (VectorSpec("x", size),)
        spec = AggregationSpec(vectors, np.dtype(dtype), weights[comm.rank], 0, bytes(32), silos)
        aggregator = PlainAggregator(ElasticGroup(comm), spec, chunk=chunk * silos)
        before = values[comm.rank].copy()
        aggregator.reduce(Contribution({"x": values[comm.rank]}), 1, {})
        mean: NDArray[Any] = aggregator.total(comm.rank).mean["x"].copy()
        np.testing.assert_array_equal(values[comm.rank], before)
        aggregator.close()
        return mean

    mean = np.concatenate(run_in_threads(silos, rank))
    expected = np.zeros(size)
    for value, weight in zip(values, weights, strict=True):
        expected += (value * np.float64(weight / sum(weights))).astype(dtype)
    np.testing.assert_array_equal(mean, expected.astype(dtype))


@pytest.mark.parametrize(
    ("scalar", "weight", "says"),
    [(np.nan, 1.0, "loss"), (1.0, 0.0, "weight of the round"), (1.0, np.nan, "weight of the round")],
)
def test_numbers_that_have_no_mean_stop_every_rank(scalar: float, weight: float, says: str) -> None:
    def rank(comm: Communicator) -> None:
        vectors = (VectorSpec("x", 5, weighting="round"),)
        spec = AggregationSpec(vectors, np.dtype(np.float32), 1, 0, bytes(32), 3, 0, ("loss",))
        aggregator = PlainAggregator(ElasticGroup(comm), spec)
        given = (scalar, weight) if comm.rank == 1 else (1.0, 1.0)
        own = Contribution({"x": np.ones(5, np.float32)}, {"loss": given[0]}, given[1])
        with pytest.raises(DataError, match=f"a silo's {says} is not finite"):
            aggregator.reduce(own, 1, {})

    run_in_threads(3, rank)


@given(size=st.integers(1, 10_000), ranks=st.integers(1, 70))
@settings(deadline=None)
def test_slices_cover_everything_once_and_begin_aligned(size: int, ranks: int) -> None:
    bounds = slice_bounds(size, ranks)
    assert bounds[0] == 0
    assert bounds[-1] == size
    assert len(bounds) == ranks + 1
    assert sum(slice_counts(bounds)) == size
    assert min(slice_counts(bounds)) >= 0
    assert all(b % ALIGNMENT == 0 or b == size for b in bounds)
