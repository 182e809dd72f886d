"""Columns scaled by public constants, and by statistics of all silos' records together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.config import parse
from silofl.errors import ConfigError, DataError
from silofl.tasks import build
from silofl.tasks.preprocessing import ColumnRecipe, Preprocessing
from silofl.tasks.scaling import Scaling, first_sums, mean_of, pooled_scaling, second_sums

ROWS = np.column_stack([np.arange(10) + 0.5, np.arange(10) * 2, np.arange(10) % 2])


def files(folder, rows=ROWS, names=("a", "b"), **data):
    path = folder / "mine.csv"
    np.savetxt(path, rows, delimiter=",", header=",".join([*names, "label"]), comments="", fmt="%.17g")
    return build(parse({"task": {"name": "files", "classes": 2}, "data": {"path": str(path), **data}}))


def everything(task):
    parts = [side.tensors[0].numpy() for side in task.data(0, 2)]
    rows = np.concatenate(parts)
    return rows[np.argsort(rows[:, 0])]


def test_constants_are_taken_off_the_columns_that_they_name(tmp_path):
    task = files(tmp_path, center={" a": 5, "b": -1.5}, scale={"b": 4.0})
    assert np.array_equal(everything(task), (ROWS[:, :2] - [5, -1.5]) / [1, 4])
    assert task.scaling == Scaling(("a", "b"), (5.0, -1.5), (1.0, 4.0))
    assert Scaling.of_json(task.scaling.to_json()) == task.scaling
    assert files(tmp_path).scaling is None


def test_constants_do_not_change_roles(tmp_path):
    rows = np.column_stack([np.arange(200), np.arange(200) * 2, np.arange(200) % 2])
    plain, scaled = files(tmp_path, rows).data(0, 2), files(tmp_path, rows, scale={"a": 1e3}).data(0, 2)
    assert np.array_equal(plain.train.tensors[0][:, 1], scaled.train.tensors[0][:, 1])
    task = files(tmp_path, rows, standardize="federated")
    columns = ColumnRecipe("a", center=1.0, scale=3.0), ColumnRecipe("b", center=2.0, scale=4.0)
    task.agree(Preprocessing(columns))
    assert np.array_equal(plain.test.tensors[0][:, 0], np.rint(task.data(0, 2).test.tensors[0][:, 0] * 3 + 1))


def test_a_column_that_is_not_there_is_refused_by_name(tmp_path):
    sentence = (
        "data.center has 'c', which is no column of features: correct the name.*; data.scale has 'label'"
    )
    with pytest.raises(DataError, match=sentence):
        files(tmp_path, center={"c": 1.0}, scale={"label": 2.0}).data(0, 2)
    np.savez(tmp_path / "mine.npz", x=ROWS[:, :2], y=ROWS[:, 2].astype(int))
    task = {"name": "files", "classes": 2}
    data = {"path": str(tmp_path / "mine.npz"), "center": {"a": 1.0}}
    with pytest.raises(
        DataError, match=r"data.center has 'a', .*: name the file's columns in an array 'columns'"
    ):
        build(parse({"task": task, "data": data})).data(0, 2)


def test_images_are_one_column(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 6), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x=images, y=np.arange(30) % 2)
    task = {"name": "files", "classes": 2, "model": "cnn"}
    data = {"path": str(tmp_path / "mine.npz"), "center": {"image": 0.5}, "scale": {"image": 0.25}}
    train, test = build(parse({"task": task, "data": data})).data(0, 2)
    values = np.sort(np.concatenate([train.tensors[0], test.tensors[0]]).ravel())
    assert np.allclose(values, np.sort((images / 255 - 0.5).ravel() / 0.25), atol=1e-6)


def test_values_that_float32_does_not_hold_once_scaled_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"mine.csv .* values of 'b' are too large for float32 once scaled"):
        files(tmp_path, scale={"b": 1e-200}).data(0, 2)


@pytest.mark.parametrize(
    ("data", "more", "sentence"),
    [
        (
            {"standardize": True},
            {"privacy": {"unit": "silo", "noise_multiplier": 1}},
            "data.center and data.scale",
        ),
        (
            {"standardize": True, "bounds": {"*": [0, 1]}},
            {},
            'data.bounds are for the noisy sums .* and privacy.unit is "none": remove them',
        ),
        (
            {"bounds": {"*": [0, 1]}},
            {"privacy": {"unit": "example", "noise_multiplier": 1}, "strategy": {"name": "fedsgd"}},
            "and nothing is standardized: remove them",
        ),
        (
            {},
            {
                "privacy": {"unit": "example", "noise_multiplier": 1, "standardize_noise_multiplier": 2},
                "strategy": {"name": "fedsgd"},
            },
            "privacy.standardize_noise_multiplier is set and data.standardize, whose sums it is for, is not",
        ),
        *(
            ({"standardize": True, "bounds": {"a": pair}}, {}, r"data.bounds.a = \[.*is not \[low, high\]")
            for pair in ([1.0, 1.0], [2.0, 1.0], [1.0], [0.0, 1.0, 2.0])
        ),
        ({"standardize": "own"}, {}, "data.standardize = 'own' is not allowed"),
        ({"standardize": "federated", "scale": {"a": 2}}, {}, "data.scale and .*scale columns twice: keep"),
        ({"scale": {"a": 0}}, {}, "data.scale.a = 0 is not allowed: it should be greater than 0"),
        ({"scale": {"a": np.inf}}, {}, "data.scale.a = inf is not allowed: it should be a finite number"),
        ({"center": {"a": np.nan}}, {}, "data.center.a = nan is not allowed: it should be a finite number"),
        ({"center": {"a": "1"}}, {}, "data.center.a = '1' is not allowed"),
        (
            {"center": {"a": 1}},
            {"task": {"name": "digits"}},
            'data.center .* task.name = "digits" reads none',
        ),
        (
            {"standardize": "federated"},
            {"task": {"factory": "a:B"}},
            "task.factory = 'a:B' reads none: remove",
        ),
    ],
)
def test_keys_that_cannot_be_are_refused_with_their_name(data, more, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse({"task": {"name": "files", "classes": 2}, "data": {"path": "x", **data}, **more})


UNBOUNDED = [
    (
        "example",
        'under privacy.unit = "example" adds up values within publicly known bounds: set data.bounds',
    ),
    (
        "patient",
        'under privacy.unit = "patient" adds up values within publicly known bounds: set data.bounds',
    ),
    ("silo", 'adds up records, and privacy.unit = "silo" protects all that a silo has: set publicly known'),
]


@pytest.mark.parametrize(("unit", "sentence"), UNBOUNDED)
def test_under_privacy_statistics_without_bounds_are_refused_and_constants_are_not(unit, sentence):
    tables = {
        "task": {"name": "files", "classes": 2},
        "privacy": {"unit": unit, "noise_multiplier": 1.0},
        "strategy": {"name": "fedavg" if unit == "silo" else "fedsgd"},
    }
    parse({**tables, "data": {"path": "x", "center": {"a": 1.0}, "scale": {"a": 2.0}}})
    with pytest.raises(ConfigError, match=sentence):
        parse({**tables, "data": {"path": "x", "standardize": "federated"}})


def test_a_silo_alone_has_no_statistics_of_all(tmp_path):
    with pytest.raises(ConfigError, match="all silos' records, which a run adds up at its start"):
        files(tmp_path, standardize="federated").data(0, 2)


@pytest.mark.parametrize(
    "told",
    [
        {"columns": ["a"], "center": [1.0, 2.0], "scale": [1.0]},
        {"columns": ["a"], "center": [float("nan")], "scale": [1.0]},
        {"columns": ["a"], "center": [1.0], "scale": [0.0]},
        {"columns": ["a"], "center": [1.0]},
        [1],
    ],
)
def test_what_is_no_scaling_is_refused(told):
    with pytest.raises((ValueError, TypeError, LookupError)):
        Scaling.of_json(told)


def pooled(parts):
    names = [str(k) for k in range(parts[0].shape[1])]
    first = sum(map(first_sums, parts))
    return pooled_scaling(names, first, sum(second_sums(part, mean_of(first)) for part in parts))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.sampled_from([0.0, 1.0, 1e9, -1e15]), st.sampled_from([1e-6, 1.0, 1e6]))
def test_pooled_statistics_are_those_of_the_whole_table(seed, offset, spread):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(n, 3)) * spread * (1 + n) + offset for n in (3, 500, 41)]
    whole = np.concatenate(parts).astype(np.longdouble)
    mean, deviation = whole.mean(axis=0), whole.std(axis=0)
    found = pooled(parts)
    assert np.abs(found.center - mean).max() <= 4e-16 * (np.abs(mean).max() + deviation.max())
    if offset != -1e15 or spread == 1e6:  # else nothing but roundings varies
        assert np.abs(found.scale / deviation - 1).max() < 1e-13


def test_a_column_that_does_not_vary_is_shifted_only():
    rounded = np.where(np.arange(10) % 2, 0.3, 0.1 + 0.2)  # which differ in the last bit
    whole = np.column_stack([np.full(10, 0.1), np.full(10, -3e20), np.zeros(10), rounded, np.arange(10)])
    found = pooled([whole[:3], whole[3:]])
    assert found.scale[:4] == (1.0,) * 4
    assert np.allclose(found.center, [0.1, -3e20, 0, 0.3, 4.5], rtol=1e-15)
    assert found.scale[4] == pytest.approx(whole[:, 4].std(), rel=1e-15)


def test_true_means_the_statistics_of_all_silos():
    tables = {"task": {"name": "files", "classes": 2}, "data": {"path": "x", "standardize": True}}
    assert parse(tables).data.standardize == "federated"


LIES = [
    *(("count", lie) for lie in (np.nan, np.inf, 2e79, -1e6)),
    *(("sum", lie) for lie in (np.nan, np.inf)),
    *(("squares", lie) for lie in (np.nan, np.inf, -1e6)),
]


@pytest.mark.parametrize(("place", "lie"), LIES)
def test_sums_that_no_records_have_are_refused(place, lie):
    """A silo that lies about its own crashes no other, nor learns how many of its values are large."""
    features = np.arange(12.0).reshape(6, 2)
    first = first_sums(features)
    second = second_sums(features, mean_of(first))
    if place == "squares":
        second[2:] += lie
    else:
        first[0 if place == "count" else 3] += lie
    with pytest.raises(DataError, match="not what records can have"):
        pooled_scaling(("a", "b"), first, second)
