"""Every partitioner: each sample exactly once, by the seed alone, no silo left empty, as skewed as asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.config import DataConfig
from silofl.errors import ConfigError
from silofl.tasks.partition import PARTITIONERS, Dirichlet, FeatureSkew, Iid, Quantity, Shards, partition
from silofl.tasks.partition.base import share_out, shares
from silofl.tasks.partition.feature_skew import first_component

ALPHAS = st.sampled_from([1e-300, 1e-3, 0.1, 0.5, 1.0, 100.0, 1e6, 1.7e308])


@st.composite
def problems(draw):
    """Labels with lone classes and absent classes, features with ties, from 1 silo to as many as samples."""
    samples = draw(st.integers(1, 60))
    labels = np.array(draw(st.lists(st.integers(-2, 6), min_size=samples, max_size=samples)))
    width = draw(st.integers(1, 4))
    features = np.random.default_rng(draw(st.integers(0, 99))).integers(-2, 3, (samples, width)).astype(float)
    minimum = draw(st.integers(1, min(2, samples)))
    return features, labels, draw(st.integers(1, samples // minimum)), minimum


def dealt(name, alpha, problem, seed):
    features, labels, silos, minimum = problem
    partitioner = PARTITIONERS[name](DataConfig(alpha=alpha, shards_per_silo=1))
    rng = np.random.default_rng(seed)
    return partition(partitioner, features, labels, silos, rng=rng, minimum=minimum)


@pytest.mark.parametrize("name", PARTITIONERS)
@settings(max_examples=60, deadline=None)
@given(alpha=ALPHAS, problem=problems(), seed=st.integers(0, 2**63 - 1))
def test_is_an_exact_cover_with_a_minimum_and_a_function_of_the_seed(name, alpha, problem, seed):
    features, labels, silos, minimum = problem
    before = features.copy(), labels.copy()
    parts = dealt(name, alpha, problem, seed)
    assert len(parts) == silos
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert min(map(len, parts)) >= minimum
    assert all(np.array_equal(part, np.sort(part)) for part in parts)
    again = dealt(name, alpha, problem, seed)
    assert all(map(np.array_equal, parts, again))
    assert np.array_equal(features, before[0])
    assert np.array_equal(labels, before[1])


@pytest.mark.parametrize("name", PARTITIONERS)
def test_another_seed_deals_otherwise(name):
    problem = np.arange(80.0).reshape(40, 2), np.arange(40) % 4, 3, 2
    first, second = dealt(name, 1.0, problem, 1), dealt(name, 1.0, problem, 2)
    assert not all(map(np.array_equal, first, second))


@pytest.mark.parametrize("name", PARTITIONERS)
def test_more_silos_than_samples_is_refused_with_both_numbers(name):
    problem = np.zeros((9, 2)), np.zeros(9, dtype=int), 5, 2
    with pytest.raises(ConfigError, match=r"5 silos cannot share 9 samples.*at most 4 silos"):
        dealt(name, 1.0, problem, 0)


def test_too_many_shards_are_refused():
    with pytest.raises(ConfigError, match=r"shards_per_silo = 4 for 3 silos makes 12 shards.*10.*at most 3"):
        Shards(4).deal(np.zeros((10, 1)), np.zeros(10, dtype=int), 3, np.random.default_rng(0))


def label_skew(parts, labels):
    """Mean total-variation distance between a silo's label distribution and the whole's, by definition."""
    whole = np.bincount(labels) / len(labels)
    each = [np.bincount(labels[part], minlength=len(whole)) / len(part) for part in parts]
    return np.mean([np.abs(one - whole).sum() / 2 for one in each])


def mean_over_seeds(partitioner, features, labels, statistic, silos=5, seeds=20):
    values = []
    for seed in range(seeds):
        parts = partition(partitioner, features, labels, silos, rng=np.random.default_rng(seed))
        values.append(statistic(parts))
    return np.mean(values)


FEATURES = np.random.default_rng(5).normal(size=(1000, 3)) * [5.0, 1.0, 1.0]
LABELS = np.random.default_rng(6).integers(0, 10, 1000)


def test_dirichlet_label_skew_falls_with_alpha_to_that_of_equal_shares():
    skews = [
        mean_over_seeds(Dirichlet(alpha), FEATURES, LABELS, lambda parts: label_skew(parts, LABELS))
        for alpha in (1e-3, 0.1, 1.0, 10.0, 1e6)
    ]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.7
    assert skews[-1] < 0.02  # systematic rounding: every class within one sample of equal


def test_dirichlet_gives_each_silo_the_beta_moments_of_a_class():
    alpha, silos, draws = 0.5, 4, 4000
    labels = np.zeros(1000, dtype=int)
    rng = np.random.default_rng(1)
    part = (
        np.array([len(Dirichlet(alpha).deal(FEATURES, labels, silos, rng)[0]) for _ in range(draws)]) / 1000
    )
    variance = (1 / silos) * (1 - 1 / silos) / (silos * alpha + 1)
    assert abs(part.mean() - 1 / silos) < 4 * np.sqrt(variance / draws)
    assert abs(part.var() - variance) < 0.05 * variance + 0.005


def test_quantity_skew_moves_sizes_and_not_labels():
    def size_skew(parts):
        return np.std([len(part) for part in parts]) / np.mean([len(part) for part in parts])

    skews = [mean_over_seeds(Quantity(a), FEATURES, LABELS, size_skew) for a in (1e-3, 0.5, 5.0, 1e6)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 1.8  # one silo has nearly all: sqrt(silos - 1) = 2
    assert skews[-1] < 0.01
    uneven = mean_over_seeds(Quantity(5.0), FEATURES, LABELS, lambda parts: label_skew(parts, LABELS))
    assert uneven < mean_over_seeds(Dirichlet(5.0), FEATURES, LABELS, lambda parts: label_skew(parts, LABELS))


def test_feature_skew_spreads_silos_along_the_first_component_only():
    def spread(axis):
        return lambda parts: np.std([FEATURES[part, axis].mean() for part in parts]) / FEATURES[:, axis].std()

    skews = [mean_over_seeds(FeatureSkew(a), FEATURES, LABELS, spread(0)) for a in (0.01, 0.5, 5.0, 1e6)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.3
    assert skews[-1] < 0.05
    assert mean_over_seeds(FeatureSkew(0.5), FEATURES, LABELS, spread(1)) < skews[1] / 3


def test_first_component_is_the_direction_of_largest_variance_up_to_rounding():
    values, vectors = np.linalg.eigh(np.cov(FEATURES.T))
    places = (FEATURES - FEATURES.mean(axis=0)) @ vectors[:, np.argmax(values)]
    assert abs(np.corrcoef(places, first_component(FEATURES))[0, 1]) > 1 - 1e-9
    assert np.array_equal(first_component(np.ones((4, 2))), np.zeros(4))
    moved = first_component(FEATURES * (1 + 1e-12))
    assert np.array_equal(moved, first_component(FEATURES))


def test_two_shards_are_at_most_two_labels_where_shards_divide_classes():
    labels = np.repeat(np.arange(10), 100)
    parts = partition(Shards(2), FEATURES, labels, 20, rng=np.random.default_rng(0))
    assert {len(part) for part in parts} == {50}
    assert max(len(np.unique(labels[part])) for part in parts) == 2  # shards of 25 lie within one class


def test_iid_sizes_differ_by_one_at_most():
    sizes = [len(part) for part in partition(Iid(), FEATURES, LABELS, 7, rng=np.random.default_rng(0))]
    assert max(sizes) - min(sizes) <= 1


def test_as_many_silos_as_samples_is_one_sample_each():
    for name in PARTITIONERS:
        parts = dealt(name, 1e-3, (FEATURES[:12], LABELS[:12], 12, 1), 3)
        assert [len(part) for part in parts] == [1] * 12


def test_a_lone_sample_goes_to_each_silo_as_often_as_its_share():
    share, rng = np.array([0.1, 0.6, 0.3]), np.random.default_rng(0)
    went = np.zeros(3)
    for _ in range(6000):
        went += [len(part) for part in share_out(np.array([0]), share, rng)]
    assert np.abs(went / 6000 - share).max() < 0.025


@given(ALPHAS, st.integers(1, 50), st.integers(0, 99))
def test_shares_are_proportions_at_any_alpha(alpha, silos, seed):
    drawn = shares(alpha, silos, np.random.default_rng(seed))
    assert np.all(drawn >= 0)
    assert abs(drawn.sum() - 1) < 1e-9


def test_levelling_moves_no_more_than_the_minimum_for_each_silo():
    labels = np.zeros(1000, dtype=int)
    parts = partition(Quantity(1e-3), FEATURES, labels, 10, rng=np.random.default_rng(0))
    assert max(map(len, parts)) >= 1000 - 2 * 10
