"""The plain mean: the reference's bits, whatever the chunks and the exchange."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from silofl.aggregation.plain import PlainAggregator
from silofl.aggregation.row_exchange import MessageExchange
from silofl.aggregation.shards import ALIGNMENT, slice_bounds, slice_counts
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("silos", [1, 2, 5])
@pytest.mark.parametrize("chunk", [1, 100, 1 << 16])
@pytest.mark.parametrize("messages", [False, True], ids=["window", "messages"])
def test_the_mean_is_the_sum_in_rank_order_in_float64(
    dtype: type, silos: int, chunk: int, messages: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if messages:
        monkeypatch.setattr("silofl.aggregation.reduce_scatter.open_exchange", MessageExchange)
    size, weights = 333, [3, 1, 400, 7, 10_000_000][:silos]
    values = [np.random.default_rng(k).standard_normal(size).astype(dtype) for k in range(silos)]

    def rank(comm: Communicator) -> NDArray[Any]:
        aggregator = PlainAggregator(
            ElasticGroup(comm), size, np.dtype(dtype), weight=weights[comm.rank], chunk=chunk
        )
        before = values[comm.rank].copy()
        aggregator.reduce(values[comm.rank], 1)
        mean = aggregator.mean(comm.rank).copy()
        np.testing.assert_array_equal(values[comm.rank], before)
        aggregator.close()
        return mean

    mean = np.concatenate(run_in_threads(silos, rank))
    expected = np.zeros(size)
    for value, weight in zip(values, weights, strict=True):
        expected += (value * np.float64(weight / sum(weights))).astype(dtype)
    np.testing.assert_array_equal(mean, expected.astype(dtype))


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
