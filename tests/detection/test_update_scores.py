"""Scores by sums over slices, against plain NumPy on whole vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl.detection.update_scores import Score, part_of, scores_of

SILOS, SIZE = 9, 300


def updates(seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(SIZE)
    return [common + 0.7 * rng.standard_normal(SIZE) for _ in range(SILOS)]


def scored(rows: list[Any], usual: Any = None, allowed: int = 3, cuts: Any = (100, 164)) -> list[Score]:
    usual = range(len(rows)) if usual is None else usual
    slices = zip(*(np.split(row, cuts) for row in rows), strict=True)
    return scores_of(sum(part_of(list(one), usual) for one in slices), usual, allowed)


def naive(rows: list[Any], allowed: int) -> list[tuple[float, float, float, float]]:
    center = np.median(rows, axis=0)
    norms = [np.linalg.norm(row) for row in rows]
    cosines = [row @ center / norm / np.linalg.norm(center) for row, norm in zip(rows, norms, strict=True)]
    distances = [np.median([np.linalg.norm(a - b) for b in rows if b is not a]) for a in rows]

    def deviations(values: Any, relative: float, absolute: float) -> Any:
        usual = np.sort(values)[: len(values) - allowed]
        middle = np.median(usual)
        mad = 1.4826 * np.median([abs(value - middle) for value in usual])
        return (np.array(values) - middle) / max(mad, relative * middle, absolute)

    every = deviations(norms, 0.2, 0), deviations(distances, 0.2, 0), deviations(-np.array(cosines), 0, 0.05)
    return list(zip(norms, cosines, distances, np.max(every, axis=0), strict=True))


@pytest.mark.parametrize("allowed", [0, 3])
def test_scores_are_those_of_whole_vectors(allowed: int) -> None:
    rows = updates()
    rows[2] = -4 * rows[2]
    before = [row.copy() for row in rows]
    found = scored(rows, allowed=allowed)
    given = [(one.norm, one.cosine, one.distance, one.deviation) for one in found]
    np.testing.assert_allclose(given, naive(rows, allowed), rtol=1e-10)
    assert sorted(one.rank for one in found) == [*range(1, SILOS + 1)]
    assert found[2].rank == SILOS
    assert all(np.array_equal(one, other) for one, other in zip(rows, before, strict=True))


def test_the_order_of_silos_does_not_matter() -> None:
    rows, order = updates(), np.random.default_rng(1).permutation(SILOS)
    found, moved = scored(rows), scored([rows[k] for k in order])
    assert [found[k].shown() for k in order] == [one.shown() for one in moved]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_does_not_change_what_is_usual(value: float) -> None:
    rows = updates()
    without = scored(rows[1:], allowed=2)
    rows[0][:] = value
    found = scored(rows, allowed=2)
    assert found[0].deviation == np.inf
    assert found[0].shown() == {"norm": None, "cosine": None, "distance": None, "rank": 0, "deviation": None}
    np.testing.assert_allclose([one.deviation for one in found[1:]], [one.deviation for one in without])


def test_one_value_that_is_not_finite_is_enough() -> None:
    rows = updates()
    rows[0][7] = np.nan
    found = scored(rows)
    assert [one.finite for one in found] == [False] + [True] * (SILOS - 1)


def test_no_finite_update_at_all_and_equal_ones() -> None:
    broken = scored([np.full(SIZE, np.nan)] * 4)
    assert not any(one.finite for one in broken)
    for row in (np.ones(SIZE), np.zeros(SIZE)):
        assert max(one.deviation for one in scored([row.copy() for _ in range(5)])) <= 0


def test_what_is_usual_is_seen_of_silos_that_are_not_excluded() -> None:
    rows = updates()
    rows[7:] = [-10 * row for row in rows[7:]]
    alone = scored(rows[:7], allowed=1)
    found = scored(rows, usual=range(7), allowed=1)
    np.testing.assert_allclose([one.norm for one in found[:7]], [one.norm for one in alone])
    np.testing.assert_allclose([one.deviation for one in found[:7]], [one.deviation for one in alone])
    assert min(one.deviation for one in found[7:]) > 20


def test_attackers_do_not_hide_each_other() -> None:
    rows = [length * row for length, row in zip(np.linspace(0.7, 1.5, SILOS), updates(), strict=True)]
    rows[6:] = [2 * row for row in rows[6:]]
    by_all, by_most = (min(one.deviation for one in scored(rows, allowed=k)[6:]) for k in (0, 3))
    assert by_most > 1.2 * by_all


def test_silos_that_copy_one_do_not_make_the_others_unusual() -> None:
    rows = updates()
    for copy in (6, 7, 8):
        rows[copy] = rows[0].copy()
    assert max(one.deviation for one in scored(rows)) < 4
