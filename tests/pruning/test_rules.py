"""Rules of pruning: schedules, counts, ties, and masks that only shrink."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.pruning.base import ScheduledRule, Weights, largest
from silofl.pruning.magnitude import Magnitude
from silofl.pruning.registry import RULES
from silofl.pruning.structured import Structured
from tests.pruning import naive
from tests.pruning.naive import SHAPES, D, places

WEIGHTS = [Weights(name, shape, places()[name]) for name, shape in SHAPES.items()]
MATRICES = [one for one in WEIGHTS if len(one.shape) > 1]
PRUNABLE = sum(one.size for one in MATRICES)
ACTIVE = sorted(name for name, kind in RULES.items() if issubclass(kind, ScheduledRule))


def rule_of(keys: Any) -> ScheduledRule:
    rule = RULES[keys["name"]](**{key: value for key, value in keys.items() if key != "name"})
    assert isinstance(rule, ScheduledRule)
    return rule


def test_density_is_cubic_as_in_the_paper() -> None:
    """Zhu & Gupta 2017, figure 1: 7/8 of what is to go has gone half way, 1 - 0.25^3 at three quarters."""
    rule = Magnitude(density=0.2, begin=10, end=18)
    found = [rule.density_after(number) for number in (1, 10, 12, 14, 16, 18, 99)]
    expected = [1, 1, 0.2 + 0.8 * 0.75**3, 0.2 + 0.8 / 8, 0.2 + 0.8 / 64, 0.2, 0.2]
    assert found == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("begin", "end", "every", "rounds"),
    [
        (0, 4, 1, [1, 2, 3, 4]),
        (2, 9, 3, [5, 8, 9]),
        (2, 8, 3, [5, 8]),
        (3, 4, 1, [4]),
        (0, 5, 5, [5]),
    ],
)
def test_weights_are_pruned_every_so_many_rounds_and_at_the_end(
    begin: int, end: int, every: int, rounds: list[int]
) -> None:
    rule = Magnitude(density=0.1, begin=begin, end=end, every=every)
    assert [number for number in range(1, 20) if rule.due(number)] == rounds
    told = [rule.density_after(number) for number in range(20)]
    assert told == sorted(told, reverse=True)
    changed = [number for number in range(1, 20) if told[number] != told[number - 1]]
    assert changed == rounds


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.nan, np.inf, -1.0]), max_size=20), st.integers(0, 25))
def test_the_largest_are_chosen_and_of_equal_ones_the_first(values: list[float], count: int) -> None:
    ranks = [np.inf if np.isnan(value) else value for value in values]
    order = sorted(range(len(ranks)), key=lambda place: (-ranks[place], place))[:count]
    assert np.flatnonzero(largest(np.array(values), count)).tolist() == sorted(order)


KEYS: list[dict[str, Any]] = [
    {"name": "magnitude", "density": 0.1, "end": 4},
    {"name": "magnitude", "density": 0.3, "end": 4, "scope": "tensor"},
    {"name": "magnitude", "density": 0.5, "end": 3, "keep": ["last"]},
    {"name": "structured", "density": 0.3, "end": 4},
    {"name": "structured", "density": 0.3, "end": 4, "keep": ["first"]},
]


@pytest.mark.covering(1)
@pytest.mark.parametrize("keys", KEYS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=20)
@given(seed=st.integers(0, 1000), coarse=st.booleans())
def test_masks_are_the_references_shrink_and_count_exactly(
    keys: dict[str, Any], dtype: Any, seed: int, coarse: bool
) -> None:
    """Also where many weights are equal, or zero without being pruned."""
    rng, rule = np.random.default_rng(seed), rule_of(keys)
    mask = np.ones(D, np.bool_)
    for number in range(1, 5):
        values = np.where(mask, rng.standard_normal(D), 0).astype(dtype)
        values = np.rint(values).astype(dtype) if coarse else values
        before = mask.copy()
        mask = rule.kept(values, mask, WEIGHTS, number)
        assert (mask <= before).all()
        assert (mask == naive.masked(values.astype(float), before, number, keys)).all()
    assert mask[places()["bias"]].all()
    chosen = [one for one in MATRICES if one.name not in keys.get("keep", [])]
    if keys["name"] == "structured":
        for one in chosen[:-1]:
            rows = mask[one.place].reshape(one.shape[0], -1)
            assert rows.all(axis=1).sum() == rows.any(axis=1).sum() == round(keys["density"] * one.shape[0])
        assert mask[places()["last"]].all()
    elif keys.get("scope") == "tensor":
        assert [mask[one.place].sum() for one in chosen] == [round(0.3 * one.size) for one in chosen]
    else:
        count = sum(one.size for one in chosen)
        assert sum(mask[one.place].sum() for one in chosen) == round(keys["density"] * count)


def test_a_tensor_of_small_weights_keeps_its_largest() -> None:
    values = np.ones(D)
    values[places()["filters"]] = np.linspace(1e-6, 2e-6, 144)
    mask = Magnitude(density=0.1, end=1).kept(values, np.ones(D, np.bool_), WEIGHTS, 1)
    assert np.flatnonzero(mask[places()["filters"]]).tolist() == [143]


def test_weights_that_were_pruned_do_not_come_back_for_being_large() -> None:
    rule, before = Magnitude(density=0.5, end=1), np.ones(D, np.bool_)
    before[MATRICES[0].place.start : MATRICES[0].place.start + 100] = False
    mask = rule.kept(np.where(before, 1.0, 100.0), before, WEIGHTS, 1)
    assert not (mask & ~before).any()
    assert mask.sum() - SHAPES["bias"][0] == round(0.5 * PRUNABLE)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (
            Magnitude(density=0.004),
            r"prune\.density = 0\.004 of 576 weights leaves 2 in 3 tensors, .* set it to 0\.0052 or more",
        ),
        (
            Magnitude(density=0.003, scope="tensor"),
            r'0\.003 of the 144 weights of filters is none: set it to 0\.0069 or .*keep = \["filters"\]',
        ),
        (
            Structured(density=0.05),
            r"prune\.density = 0\.05 of the 6 rows of filters is none: .* 0\.17",
        ),
        (Structured(density=0.5, keep=("f*",)), r"\[prune\] finds nothing to prune"),
        (Magnitude(keep=("*",)), r"\[prune\] finds nothing to prune"),
        (
            Magnitude(keep=("layer.*",)),
            r'prune\.keep = "layer\.\*" names no tensor .* has first, bias, filters, last',
        ),
    ],
    ids=str,
)
def test_what_leaves_a_tensor_nothing_is_refused_with_the_numbers(rule: ScheduledRule, told: str) -> None:
    found = rule.refusal(WEIGHTS)
    assert found is not None
    assert re.search(told, found)


def test_what_a_refusal_asks_for_is_enough() -> None:
    assert Magnitude(density=0.0053).refusal(WEIGHTS) is None
    assert Magnitude(density=0.0069, scope="tensor").refusal(WEIGHTS) is None
    assert Structured(density=0.17).refusal(WEIGHTS) is None
