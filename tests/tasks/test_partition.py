"""Every partitioner: each sample exactly once, by its own values and the seed alone, as skewed as asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.config import DataConfig
from silofl.errors import ConfigError
from silofl.tasks.partition import (
    PARTITIONERS,
    Dirichlet,
    FeatureSkew,
    Iid,
    Quantity,
    Records,
    Shards,
    partition,
)
from silofl.tasks.partition.base import by_shares, shares
from silofl.tasks.partition.feature_skew import groups
from silofl.tasks.row_hash import RANGE, row_hashes

ALPHAS = st.sampled_from([1e-300, 1e-3, 0.1, 0.5, 1.0, 100.0, 1e6, 1.7e308])
CLASSES = 7


def records(features, labels, classes=CLASSES, published=None):
    places = row_hashes(features, labels, 0, "places") / RANGE
    return Records(features, labels, places, classes, published or len(labels))


@st.composite
def problems(draw):
    """Lone and absent classes, features with ties, half as many silos as samples at most."""
    samples = draw(st.integers(2, 60))
    labels = np.array(draw(st.lists(st.integers(0, CLASSES - 1), min_size=samples, max_size=samples)))
    width = draw(st.integers(1, 4))
    features = np.random.default_rng(draw(st.integers(0, 99))).integers(-2, 3, (samples, width)).astype(float)
    return features, labels, draw(st.integers(1, samples // 2))


def dealt(name, alpha, problem, seed, published=None):
    features, labels, silos = problem
    partitioner = PARTITIONERS[name](DataConfig(alpha=alpha, shards_per_silo=1))
    given = records(features, labels, published=published)
    return partition(partitioner, given, silos, rng=np.random.default_rng(seed))


@pytest.mark.covering(0)
@pytest.mark.parametrize("name", PARTITIONERS)
@settings(max_examples=60, deadline=None)
@given(alpha=ALPHAS, problem=problems(), seed=st.integers(0, 2**63 - 1))
def test_is_an_exact_cover_and_a_function_of_the_seed(name, alpha, problem, seed):
    features, labels, silos = problem
    before = features.copy(), labels.copy()
    parts = dealt(name, alpha, problem, seed)
    assert len(parts) == silos
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert all(np.array_equal(part, np.sort(part)) for part in parts)
    again = dealt(name, alpha, problem, seed)
    assert all(map(np.array_equal, parts, again))
    assert np.array_equal(features, before[0])
    assert np.array_equal(labels, before[1])


@pytest.mark.covering(0)
@pytest.mark.parametrize("name", PARTITIONERS)
@settings(max_examples=40, deadline=None)
@given(alpha=ALPHAS, problem=problems(), seed=st.integers(0, 2**63 - 1), data=st.data())
def test_a_sample_that_is_changed_or_taken_away_moves_no_other(name, alpha, problem, seed, data):
    features, labels, silos = problem
    place, samples = data.draw(st.integers(0, len(labels) - 1)), len(labels)

    def owners(features, labels):
        parts = dealt(name, alpha, (features, labels, silos), seed, published=samples)
        found = np.empty(len(labels), int)
        for silo, part in enumerate(parts):
            found[part] = silo
        return found

    first = np.delete(owners(features, labels), place)
    assert np.array_equal(owners(np.delete(features, place, 0), np.delete(labels, place)), first)
    features[place], labels[place] = 1e9, (labels[place] + 1) % CLASSES
    assert np.array_equal(np.delete(owners(features, labels), place), first)


@pytest.mark.parametrize("name", PARTITIONERS)
def test_half_of_the_samples_are_dealt_as_they_are_with_the_others(name):
    partitioner = PARTITIONERS[name](DataConfig(alpha=0.3))
    whole, half = (records(FEATURES[:n], LABELS[:n], 10, published=1797) for n in (4000, 2000))
    owners, again = (partitioner.assign(one, 5, np.random.default_rng(1)) for one in (whole, half))
    assert np.array_equal(owners[:2000], again)


@pytest.mark.parametrize("name", PARTITIONERS)
def test_another_seed_deals_otherwise(name):
    problem = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 4, 3
    if name == "iid":  # whose only draws are the samples' places
        return
    first, second = dealt(name, 1.0, problem, 1), dealt(name, 1.0, problem, 2)
    assert not all(map(np.array_equal, first, second))


@pytest.mark.parametrize("name", PARTITIONERS)
def test_more_silos_than_samples_is_refused_with_both_numbers(name):
    problem = np.zeros((9, 2)), np.zeros(9, dtype=int), 5
    with pytest.raises(ConfigError, match=r"5 silos cannot share 9 samples.*at most 4 silos"):
        dealt(name, 1.0, problem, 0)


def test_too_many_shards_are_refused():
    given = records(np.zeros((10, 1)), np.zeros(10, dtype=int))
    with pytest.raises(ConfigError, match=r"shards_per_silo = 4 for 3 silos makes 12 shards.*10.*at most 3"):
        Shards(4).assign(given, 3, np.random.default_rng(0))


def label_skew(parts, labels):
    """Mean total-variation distance between a silo's label distribution and the whole's, by definition."""
    whole = np.bincount(labels) / len(labels)
    each = [np.bincount(labels[part], minlength=len(whole)) / max(len(part), 1) for part in parts]
    return np.mean([np.abs(one - whole).sum() / 2 for one in each])


def mean_over_seeds(partitioner, features, labels, statistic, silos=5, seeds=20):
    given, values = records(features, labels, 10, published=10**6), []
    for seed in range(seeds):
        parts = partition(partitioner, given, silos, rng=np.random.default_rng(seed))
        values.append(statistic(parts))
    return np.mean(values)


FEATURES = np.random.default_rng(5).normal(size=(4000, 3)) * [5.0, 1.0, 1.0]
LABELS = np.random.default_rng(6).integers(0, 10, 4000)


def test_dirichlet_label_skew_falls_with_alpha_to_that_of_equal_shares():
    skews = [
        mean_over_seeds(Dirichlet(alpha), FEATURES, LABELS, lambda parts: label_skew(parts, LABELS))
        for alpha in (1e-3, 0.1, 1.0, 10.0, 1e6)
    ]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.7
    assert skews[-1] < 0.06  # independent draws: each class within 5 % of equal


def test_dirichlet_gives_each_silo_the_beta_moments_of_a_class():
    alpha, silos, draws = 0.5, 4, 4000
    given, rng = (
        records(FEATURES[:1000], np.zeros(1000, dtype=int), 1, published=10**6),
        np.random.default_rng(1),
    )
    part = np.array([np.mean(Dirichlet(alpha).assign(given, silos, rng) == 0) for _ in range(draws)])
    variance = (1 / silos) * (1 - 1 / silos) / (silos * alpha + 1)
    assert abs(part.mean() - 1 / silos) < 4 * np.sqrt(variance / draws) + 0.02  # places are draws, too
    assert abs(part.var() - variance) < 0.05 * variance + 0.005


def test_quantity_skew_moves_sizes_and_not_labels():
    def size_skew(parts):
        return np.std([len(part) for part in parts]) / np.mean([len(part) for part in parts])

    skews = [mean_over_seeds(Quantity(a), FEATURES, LABELS, size_skew) for a in (1e-3, 0.5, 5.0, 1e6)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 1.8  # one silo has nearly all: sqrt(silos - 1) = 2
    assert skews[-1] < 0.06
    uneven = mean_over_seeds(Quantity(5.0), FEATURES, LABELS, lambda parts: label_skew(parts, LABELS))
    assert uneven < mean_over_seeds(Dirichlet(5.0), FEATURES, LABELS, lambda parts: label_skew(parts, LABELS))


def test_feature_skew_spreads_silos_most_where_features_vary_most():
    def spread(axis):
        return lambda parts: np.std([FEATURES[part, axis].mean() for part in parts]) / FEATURES[:, axis].std()

    skews = [mean_over_seeds(FeatureSkew(a), FEATURES, LABELS, spread(0)) for a in (0.1, 0.5, 5.0, 1e6)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.3
    assert skews[-1] < 0.05
    assert mean_over_seeds(FeatureSkew(0.5), FEATURES, LABELS, spread(1)) < skews[1] / 1.5


def test_groups_are_the_signs_along_directions():
    directions = np.random.default_rng(0).normal(size=(3, 4))
    expected = ((FEATURES @ directions > 0) * [1, 2, 4, 8]).sum(axis=1)
    assert np.array_equal(groups(FEATURES, directions), expected)


def test_two_shards_are_at_most_two_labels_where_shards_divide_classes():
    labels = np.repeat(np.arange(10), 100)
    given = records(FEATURES[:1000], labels, 10)
    parts = partition(Shards(2), given, 20, rng=np.random.default_rng(0))
    assert max(len(np.unique(labels[part])) for part in parts) == 2  # shards of about 25 lie within one class
    assert min(map(len, parts)) > 25


def test_iid_sizes_are_those_of_independent_draws():
    sizes = np.array([len(part) for part in partition(Iid(), records(FEATURES, LABELS, 10), 8, rng=None)])
    assert abs(sizes - 500).max() < 4 * np.sqrt(4000 / 8)


def test_a_sample_goes_to_each_silo_as_often_as_its_share():
    share = np.array([[0.1, 0.6, 0.3], [0.5, 0.0, 0.5]])
    places, which = np.random.default_rng(0).random(12000), np.arange(12000) % 2
    silos = by_shares(places, share, which)
    for group in (0, 1):
        assert np.abs(np.bincount(silos[which == group], minlength=3) / 6000 - share[group]).max() < 0.025
    assert np.array_equal(by_shares(np.array([0.0, 1 - 2**-32]), share, np.array([0, 0])), [0, 2])


@given(ALPHAS, st.integers(1, 50), st.integers(0, 99))
def test_shares_are_proportions_at_any_alpha_and_none_is_tiny(alpha, silos, seed):
    drawn = shares(alpha, 3, silos, 1000, np.random.default_rng(seed))
    assert drawn.shape == (3, silos)
    assert drawn.min() >= min(0.016, 0.5 / silos) * (1 - 1e-9)
    assert np.abs(drawn.sum(axis=1) - 1).max() < 1e-9
