"""synthetic(alpha, beta) against the formulas of the paper, section 5.1."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.config import parse
from silofl.tasks import build
from silofl.tasks.synthetic import SIGMA, Truth, draw_samples, draw_truth


def task(alpha=1.0, beta=1.0, seed=0):
    return build(
        parse(
            {
                "run": {"seed": seed},
                "task": {"name": "synthetic", "alpha": alpha, "beta": beta, "model": "linear"},
            }
        )
    )


def naive_labels(features, truth):
    """argmax(softmax(W x + b)), one sample and one class at a time."""
    labels = []
    for x in features:
        scores = [sum(x[j] * truth.weight[j, c] for j in range(60)) + truth.bias[c] for c in range(10)]
        powers = np.exp(np.array(scores) - max(scores))
        labels.append(int(np.argmax(powers / powers.sum())))
    return labels


def test_labels_follow_the_silos_own_softmax_regression():
    rng = np.random.default_rng(0)
    truth = draw_truth(1.0, 1.0, rng)._replace(samples=60)
    features, labels = draw_samples(truth, rng)
    assert labels.tolist() == naive_labels(features, truth)


def test_features_are_normal_around_the_silos_centre_with_variances_falling_as_j_to_the_minus_1_2():
    rng = np.random.default_rng(1)
    truth = Truth(40_000, np.zeros((60, 10)), np.zeros(10), rng.normal(size=60))
    features, _ = draw_samples(truth, rng)
    sigma = [j**-1.2 for j in range(1, 61)]
    assert np.allclose(sigma, SIGMA)
    assert np.abs((features.mean(axis=0) - truth.centre) / np.sqrt(sigma)).max() < 5 / np.sqrt(40_000)
    assert np.abs(features.var(axis=0) / sigma - 1).max() < 5 * np.sqrt(2 / 40_000)
    correlation = np.corrcoef(features.T) - np.eye(60)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(40_000)


def test_silos_differ_by_alpha_in_models_and_by_beta_in_features():
    for alpha, beta in [(0.0, 0.0), (0.5, 2.0), (3.0, 0.0)]:
        rng = np.random.default_rng(2)
        truths = [draw_truth(alpha, beta, rng) for _ in range(2000)]
        weights = np.array([truth.weight.mean() for truth in truths])
        biases = np.array([truth.bias.mean() for truth in truths])
        centres = np.array([truth.centre.mean() for truth in truths])
        # the mean of n values ~ N(u, 1) over u ~ N(0, a^2) has variance a^2 + 1/n
        assert abs(weights.var() / (alpha**2 + 1 / 600) - 1) < 0.16
        assert abs(biases.var() / (alpha**2 + 1 / 10) - 1) < 0.16
        assert abs(centres.var() / (beta**2 + 1 / 60) - 1) < 0.16
        if alpha:
            assert np.corrcoef(weights, biases)[0, 1] > 0.8  # one u for both
        assert abs(np.mean([truth.weight.var() for truth in truths]) - 1) < 0.01
        assert abs(np.mean([truth.centre.var(ddof=1) for truth in truths]) - 1) < 0.03


def test_sizes_are_fifty_more_than_a_lognormal():
    rng = np.random.default_rng(3)
    sizes = np.array([draw_truth(1, 1, rng).samples for _ in range(4000)]) - 50
    assert sizes.min() >= 0
    logs = np.log(sizes + 0.5)
    assert abs(np.median(logs) - 4) < 0.15
    assert abs(np.percentile(logs, 84.13) - 6) < 0.2


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 40))
def test_a_silo_is_a_function_of_seed_and_number(seed, silo):
    first, again = task(seed=seed).data(silo, silo + 1), task(seed=seed).data(silo, 1000)
    for one, two in zip(first, again, strict=True):
        assert all(map(torch.equal, one.tensors, two.tensors))
    other = task(seed=seed).data(silo + 1, 1000)
    assert not torch.equal(first.train.tensors[0][0], other.train.tensors[0][0])
    assert len(first.train) + len(first.test) >= 50
    assert len(first.train) > len(first.test) > 0
    x, y = first.train.tensors
    assert x.shape[1:] == (60,)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert y.min() >= 0
    assert y.max() <= 9
    assert task().model()(x).shape == (len(x), 10)
