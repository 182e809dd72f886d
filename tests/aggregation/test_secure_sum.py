"""`silofl.secure_sum` from any mpi4py program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import silofl
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError


def check(comm: Any, rank: int, size: int) -> None:
    x = np.random.default_rng(rank).standard_normal((7, 11)).astype(np.float32)
    expected = sum(np.random.default_rng(k).standard_normal((7, 11)).astype(np.float32) for k in range(size))
    total = silofl.secure_sum(x, comm=comm, bits=32)
    assert total.shape == (7, 11)
    assert total.dtype == np.float32
    np.testing.assert_allclose(total, expected, atol=1e-5)
    tensor = silofl.secure_sum(torch.from_numpy(x).double(), comm=comm, bits=32)
    assert tensor.dtype == torch.float64
    torch.testing.assert_close(tensor, torch.from_numpy(np.asarray(expected, np.float64)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("silos", [3, 6])
def test_arrays_and_tensors_in_threads(silos: int) -> None:
    run_in_threads(silos, lambda comm: check(comm, comm.rank, comm.size))


def test_one_aggregator_adds_up_often_and_lengths_and_types_may_change() -> None:
    def rank(comm: Communicator) -> None:
        with silofl.SecureAggregator(comm, bits=32) as aggregator:
            for size, dtype in ((5, "f8"), (5, "f8"), (1000, "f8"), (1000, "f4"), (3, "f4")):
                total = aggregator.sum(np.full(size, comm.rank + 0.5, dtype))
                assert total.dtype == dtype
                np.testing.assert_allclose(total, 4.5, atol=1e-6)

    run_in_threads(3, rank)


@pytest.mark.parametrize(("silos", "words"), [(1, "at least three"), (2, "each the other")])
def test_too_few_ranks_are_refused(silos: int, words: str) -> None:
    def rank(comm: Communicator) -> None:
        with pytest.raises(ConfigError, match=words):
            silofl.secure_sum(np.ones(3), comm=comm)

    run_in_threads(silos, rank)


def test_other_types_are_refused() -> None:
    def rank(comm: Communicator) -> None:
        with pytest.raises(TypeError, match="float32 or float64, not int64"):
            silofl.secure_sum(np.arange(3), comm=comm)

    run_in_threads(3, rank)


@pytest.mark.mpi(min_size=3)
def test_over_mpi() -> None:
    from mpi4py import MPI

    check(MPI.COMM_WORLD, MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size)
