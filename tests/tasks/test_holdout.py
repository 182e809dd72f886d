"""The held-out part: its size, its labels, its seed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from silofl.errors import DataError
from silofl.tasks.holdout import holdout, silo_data
from silofl.tasks.random_streams import stream


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=80),
    st.floats(1e-6, 1, exclude_max=True),
    st.integers(0, 2**32),
)
def test_splits_every_class_in_proportion(labels, fraction, seed):
    labels = np.array(labels)
    train, test = holdout(labels, fraction, np.random.default_rng(seed))
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(labels)))
    assert len(train) >= 1
    assert len(test) == min(max(round(fraction * len(labels)), 1), len(labels) - 1)
    for label in np.unique(labels):
        due = np.count_nonzero(labels == label) * len(test) / len(labels)
        assert abs(np.count_nonzero(labels[test] == label) - due) < 1


@given(st.integers(2, 40), st.integers(0, 1000))
def test_equal_generators_hold_out_equal_samples(samples, seed):
    again = [holdout(np.zeros(samples), 0.3, np.random.default_rng(seed))[1] for _ in range(2)]
    assert np.array_equal(*again)


def test_every_sample_is_held_out_equally_often():
    labels, rng, times = np.array([0, 0, 0, 1, 2, 2, 2, 2]), np.random.default_rng(0), np.zeros(8)
    for _ in range(4000):
        times[holdout(labels, 0.25, rng)[1]] += 1
    assert np.abs(times / 4000 - 0.25).max() < 0.03


@pytest.mark.parametrize("samples", [0, 1])
def test_too_few_samples(samples):
    with pytest.raises(DataError, match=rf"silo 7 has {samples} sample.*at least 2"):
        silo_data(np.zeros((samples, 2)), np.zeros(samples, dtype=int), fraction=0.5, seed=0, silo=7)


def test_types_and_standardization_by_the_training_part():
    rng = np.random.default_rng(0)
    features = rng.normal(5, 3, (50, 4))
    features[:, 2] = 7.0
    train, test = silo_data(features, np.arange(50) % 3, fraction=0.2, seed=1, silo=0, standardize=True)
    x, y = train.tensors
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert len(train) == 40
    assert x.mean(dim=0).abs().max() < 1e-6
    assert torch.allclose(x.std(dim=0, correction=0), torch.tensor([1.0, 1.0, 0.0, 1.0]), atol=1e-6)
    assert test.tensors[0].mean(dim=0).abs().max() > 1e-3
    assert torch.equal(test.tensors[0][:, 2], torch.zeros(10))


def test_streams_differ_by_purpose_and_silo_and_repeat():
    first = stream(3, "holdout", 1).integers(2**60)
    assert first == stream(3, "holdout", 1).integers(2**60)
    others = [
        stream(4, "holdout", 1),
        stream(3, "partition", 1),
        stream(3, "holdout", 2),
        stream(2**62, "holdout", 1),
    ]
    assert len({first, *(other.integers(2**60) for other in others)}) == 5
