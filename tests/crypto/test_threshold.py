"""Thresholds: what each bears, held against all ways in which a network can be split."""

import itertools
import re

import pytest

from silofl.config import SecureConfig
from silofl.crypto.graph import Bounds, choose_degree
from silofl.crypto.threshold import default_threshold, describe_threshold, fewest_of, tolerance


def both_open(silos, threshold, liars):
    """Whether some split of the honest silos lets two sets of survivors both reach the threshold."""
    honest = silos - liars
    sides = itertools.product((0, 1), repeat=honest)
    return any(min(sum(side), honest - sum(side)) + liars >= threshold for side in sides)


@pytest.mark.parametrize("silos", range(2, 10))
def test_as_many_liars_are_borne_as_are_stated_and_not_one_more(silos):
    for threshold in range(silos // 2 + 1, silos + 1):
        borne = tolerance(silos, threshold, threshold)
        assert not any(both_open(silos, threshold, liars) for liars in range(borne.liars + 1))
        assert both_open(silos, threshold, borne.liars + 1)
        assert borne.liars <= borne.colluders == threshold - 1
        assert borne.deaths == silos - threshold


def test_the_default_is_the_smallest_that_bears_a_liar_where_a_death_can_be_borne():
    assert [default_threshold(n) for n in range(1, 10)] == [1, 2, 2, 3, 4, 4, 5, 5, 6]
    for silos in range(4, 40):
        chosen = default_threshold(silos)
        assert 2 * chosen - silos > 1 >= 2 * (chosen - 1) - silos
        borne = tolerance(silos, chosen, fewest_of(SecureConfig(), silos))
        assert borne.deaths >= 1 <= borne.liars
    of_three = [fewest_of(SecureConfig(allow_two=two), 3) for two in (False, True)]
    assert [tolerance(3, 2, fewest).deaths for fewest in of_three] == [0, 1]


def test_of_many_silos_the_graphs_bounds_count():
    silos = 75
    assert choose_degree(silos, Bounds()) is not None
    borne = tolerance(silos, default_threshold(silos), default_threshold(silos))
    assert (borne.deaths, borne.colluders, borne.liars) == (7, 25, 2)
    assert tolerance(silos, 75, 75).deaths == 0


@pytest.mark.parametrize(
    ("silos", "config", "words"),
    [
        (3, {}, "no deaths, 1 colluding .*, no liars .*: the threshold is 2 of 3 silos"),
        (5, {}, "1 death, 3 colluding .*, 2 liars .*: the threshold is 4 of 5 silos"),
        (5, {"threshold": 3}, "2 deaths, 2 colluding .*, no liars .*: the threshold is 3 of 5 silos"),
        (75, {}, "7 deaths, 25 colluding .* by the bounds of the neighbour graph, 2 liars .* 39 of 75 silos"),
    ],
)
def test_what_the_threshold_in_force_bears_is_one_sentence(silos, config, words):
    assert re.fullmatch(words, describe_threshold(SecureConfig(**config), silos))
