"""Sums of columns within public bounds: what one record of a file can move them by, and what they tell."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from silofl.config import PrivacyConfig, parse
from silofl.errors import DataError
from silofl.privacy.column_statistics import StatisticsPlan
from silofl.tasks import build
from silofl.tasks.bounded_columns import POWER, Bounded

BOUNDS = {"a": [0.0, 10.0], "b": [-1.0, 3.0], "*": [-1e3, 1e3]}
NAMES = ("a", "b", "c")


def task_of(folder, rows, owners=None, bounds=BOUNDS):
    """The task of a file of rows (n, 4), the last the label, and of whose they are."""
    header, columns = [*NAMES, "label"], [rows]
    more = {}
    if owners is not None:
        header, columns, more = [*header, "who"], [rows, owners], {"owner_column": "who"}
    path = folder / "mine.csv"
    np.savetxt(
        path, np.column_stack(columns), delimiter=",", header=",".join(header), comments="", fmt="%.17g"
    )
    data = {"path": str(path), "standardize": True, "bounds": bounds, **more}
    privacy = {"unit": "example" if owners is None else "patient", "noise_multiplier": 1.0}
    tables = {"task": {"name": "files", "classes": 2}, "data": data, "privacy": privacy}
    return build(parse(tables | {"strategy": {"name": "fedsgd"}}))


def table(seed=0, n=40):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)) * [3, 1, 400] + [5, 1, 0]
    return np.column_stack([x, rng.integers(0, 2, n)])


def outliers():
    """Records that an attacker would try: far out, at the bounds, in the middle, large in one column."""
    values = [-1e30, -1e3, -1.0, 0.0, 1.0, 3.0, 5.0, 10.0, 1e3, 1e30]
    rng = np.random.default_rng(7)
    return [[*rng.choice(values, 3), rng.integers(0, 2)] for _ in range(20)] + [
        [*([low] * 3), label] for low in (-1e30, 1e30) for label in (0, 1)
    ]


def on_grid(plan, task, *, by_person):
    sums = plan.on_grid(task.bounded_sums(0, by_person=by_person), POWER)
    return np.array(sums[: plan.numbers])


@pytest.mark.covering(0)
@pytest.mark.parametrize("neighbours", ["replace-special", "add-remove"])
def test_a_record_added_or_removed_moves_the_sums_by_their_sensitivity_at_most(tmp_path, neighbours):
    config = PrivacyConfig(neighbours=neighbours, standardize_noise_multiplier=1.0)
    plan, rows = StatisticsPlan(config, 3, 3), table()
    before = on_grid(plan, task_of(tmp_path, rows), by_person=False)
    moved = []
    for place, one in enumerate(outliers()):
        at = place % len(rows)
        for other in (np.insert(rows, at, one, axis=0), np.delete(rows, at, axis=0)):
            after = on_grid(plan, task_of(tmp_path, other), by_person=False)
            moved.append(np.linalg.norm(after - before))
    assert max(moved) <= plan.sensitivity
    assert max(moved) > 0.999 * plan.sensitivity  # the bound is no larger than it must be
    assert min(moved) == 0.0  # of one that is held out


def test_a_record_replaced_or_relabelled_moves_the_sums_by_twice_that_at_most(tmp_path):
    config = PrivacyConfig(neighbours="replace-one", standardize_noise_multiplier=1.0)
    plan, rows = StatisticsPlan(config, 3, 3), table()
    before = on_grid(plan, task_of(tmp_path, rows), by_person=False)
    for place, one in enumerate(outliers()):
        other = rows.copy()
        other[place] = one
        relabelled = rows.copy()
        relabelled[place, -1] = 1 - rows[place, -1]
        for changed in (other, relabelled):
            after = on_grid(plan, task_of(tmp_path, changed), by_person=False)
            assert np.linalg.norm(after - before) <= 2 * plan.sensitivity


@pytest.mark.parametrize("neighbours", ["replace-special", "add-remove"])
def test_all_records_of_a_person_move_the_sums_as_one_does(tmp_path, neighbours):
    config = PrivacyConfig(unit="patient", neighbours=neighbours, standardize_noise_multiplier=1.0)
    plan, rows, owners = StatisticsPlan(config, 3, 3), table(), np.arange(40) % 13
    before = on_grid(plan, task_of(tmp_path, rows, owners), by_person=True)
    moved = []
    for person in range(13):
        gone = owners != person
        after = on_grid(plan, task_of(tmp_path, rows[gone], owners[gone]), by_person=True)
        moved.append(np.linalg.norm(after - before))
        many = np.array([outliers()[-1]] * 50)
        more = np.concatenate([rows, many]), np.concatenate([owners, np.full(50, 100 + person)])
        after = on_grid(plan, task_of(tmp_path, *more), by_person=True)
        moved.append(np.linalg.norm(after - before))
    assert 0.999 * plan.sensitivity < max(moved) <= plan.sensitivity


@example(1 << 29, 1 << 30, 1)  # of which rounding half to even would make 0 and 2
@given(st.integers(-(2**50), 2**50), st.integers(-(2**POWER), 2**POWER), st.integers(1, 1 << 14))
def test_rounding_a_whole_sum_to_the_grid_costs_no_sensitivity(first, apart, unit):
    class Coarse(StatisticsPlan):
        @property
        def unit(self):
            return unit

    one, other = Coarse(PrivacyConfig(), 3, 1).on_grid([first, first + apart], POWER)
    assert abs(one - other) <= unit
    assert abs(one - first * unit / 2**POWER) <= 0.5


def test_without_noise_the_scaling_is_that_of_the_clipped_records(tmp_path):
    task, rows = task_of(tmp_path, table(1, 200)), table(1, 200)
    sums = task.bounded_sums(0, by_person=False)
    scaling = task.bounded(0).scaling(np.array(sums) / 2**POWER, 1e-9)
    kept = np.clip(task.training_numbers(0), [0, -1, -1e3], [10, 3, 1e3])
    assert len(kept) == sums[-1] / 2**POWER < len(rows)
    np.testing.assert_allclose(scaling.center, kept.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(scaling.scale, kept.std(axis=0), rtol=1e-5)


def test_a_variance_below_the_noise_on_it_is_taken_to_be_that_noise():
    bounded = Bounded(("a", "b"), (5.0, 5.0), (5.0, 5.0))
    constant = np.array([0.0, 0.6, -1.0, 2 * 0.36 - 1, 1.0]) * 1000
    for sums in (constant, constant - [0, 0, 50, 50, 0]):
        scaling = bounded.scaling(sums, deviation=20.0)
        assert scaling.center == pytest.approx((5.0, 8.0))
        least = 0.02 * np.sqrt(0.25 + 4 * np.array([0, 0.36]))
        assert scaling.scale == pytest.approx(tuple(5 * np.sqrt(least)), rel=1e-6)
    drowned = bounded.scaling(np.array([9e9, -9e9, 9e9, 9e9, -7.0]), deviation=1e9)
    assert drowned.center == (10.0, 0.0)
    assert drowned.scale == (5.0, 5.0)
    with pytest.raises(DataError, match="add up to is no number"):
        bounded.scaling(np.array([np.nan, 0, 0, 0, 1]), 1.0)


def test_what_is_no_number_counts_as_the_middle():
    bounded = Bounded(("a",), (5.0,), (5.0,))
    sums = bounded.sums(np.array([[np.nan], [np.inf], [-np.inf]]), None)
    assert sums == [0, (-1 + 1 + 1) << POWER, 3 << POWER]


def test_an_image_counts_once_by_the_means_of_its_values():
    rng = np.random.default_rng(0)
    images = rng.random((2050, 1, 4, 3)).astype(np.float32)
    sums = np.array(Bounded(("image",), (0.5,), (0.5,)).sums(images, None)) / 2**POWER
    u = 2 * images.astype(float) - 1
    expected = [u.mean(axis=(1, 2, 3)).sum(), (2 * u * u - 1).mean(axis=(1, 2, 3)).sum(), 2050]
    np.testing.assert_allclose(sums, expected, rtol=1e-6, atol=1e-5)


def test_bounds_of_columns_that_are_not_there_and_columns_without_are_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"data.bounds has 'd', which is no column of features: correct"):
        task_of(tmp_path, table(), bounds={"d": [0, 1], "*": [0, 1]}).read(0)
    with pytest.raises(DataError, match=r"data.bounds has none of 'b', 'c': add them, or \"\*\" for all"):
        task_of(tmp_path, table(), bounds={"a": [0, 1]}).read(0)
