"""The recipe of a table's columns: as scikit-learn's transformers, the same after JSON, refused by column."""

import json

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from silofl.errors import DataError
from silofl.tasks.preprocessing import ColumnRecipe, Preprocessing

AGE = np.array([30.0, np.nan, 55.0, 70.5])
SEX = np.array(["f", "m", "m", "f"], object)
RECIPE = Preprocessing(
    (
        ColumnRecipe("age", unit="years", impute=51.8, flag=True, center=50.0, scale=20.0),
        ColumnRecipe("sex", "categorical", categories=("f", "m")),
        ColumnRecipe("ward", "categorical", categories=("1", "none", "missing", "other")),
    )
)
WARD = np.array([1, 1.0, 1, 1])


def test_features_are_those_of_scikit_learns_transformers() -> None:
    reference = ColumnTransformer(
        [
            ("age", make_pipeline(SimpleImputer(), StandardScaler()), [0]),
            ("sex", OneHotEncoder(categories=[["f", "m"]], sparse_output=False), [1]),
        ]
    )
    table = np.column_stack([AGE.astype(object), SEX])
    expected = reference.fit_transform(table)
    scaler = reference.named_transformers_["age"][1]
    mean = float(np.nanmean(AGE))
    age = ColumnRecipe("age", impute=mean, center=float(scaler.mean_[0]), scale=float(scaler.scale_[0]))
    found = Preprocessing((age, RECIPE.columns[1])).features({"age": AGE, "sex": SEX, "id": [1, 2, 3, 4]})
    assert found.dtype == np.float32
    assert np.array_equal(found, expected.astype(np.float32))


def test_flags_and_categories_of_their_own() -> None:
    assert RECIPE.feature_names == (
        *("age", "age missing", "sex=f", "sex=m", "ward=1", "ward=none", "ward=missing", "ward=other"),
    )
    found = RECIPE.features(
        {"age": ["30", None, " 55", "NA"], "sex": SEX, "ward": [1.0, " none ", float("nan"), "x9"]}
    )
    assert np.array_equal(found[:, 0], np.float32([-1, 0.09, 0.25, 0.09]))
    assert found[:, 1].tolist() == [0, 1, 0, 1]
    assert np.array_equal(found[:, 4:], np.eye(4))


def test_json_keeps_every_bit_and_is_strict() -> None:
    told = json.loads(json.dumps(RECIPE.to_json()))
    assert Preprocessing.from_json(told) == RECIPE
    numbers = Preprocessing((ColumnRecipe("", center=0.1 + 0.2), ColumnRecipe("")))
    assert Preprocessing.from_json(json.loads(json.dumps(numbers.to_json()))) == numbers
    for change in (
        {"center": "0"},
        {"scale": 0.0},
        {"scale": -1.0},
        {"center": float("nan")},
        {"kind": "text"},
        {"more": 1},
        {"flag": 1},
        {"name": 7},
    ):
        wrong = {"format": 1, "columns": [{**told["columns"][0], **change}, *told["columns"][1:]]}
        with pytest.raises((ValueError, TypeError, KeyError)):
            Preprocessing.from_json(wrong)
    for wrong in (
        {**told, "format": 2},
        {**told, "columns": told["columns"] * 2},
        {"format": 1, "columns": [{**told["columns"][1], "categories": []}]},
        {"format": 1, "columns": [{**told["columns"][1], "categories": ["f", "f"]}]},
    ):
        with pytest.raises(ValueError):
            Preprocessing.from_json(wrong)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"age": ["x", 1, 2, "inf"]},
            r"column 'age' has 2 value\(s\) that are no numbers \(rows 1 and 4\): corr",
        ),
        ({"age": [1e300, 1, 2, 3]}, r"'age' has 1 value\(s\) too large for float32 once scaled \(row 1\)"),
        ({"sex": ["f", "d", "", "m"]}, r"'sex' has 1 value\(s\) missing \(row 3\).*none of its .* \(row 2\)"),
        ({"age": [1.0]}, "columns of unequal lengths"),
    ],
)
def test_what_does_not_fit_is_refused_by_column_and_row(change, sentence) -> None:
    raw = {"age": AGE, "sex": SEX, "ward": WARD, **change}
    with pytest.raises(DataError, match=f"^new.csv .*{sentence}"):
        RECIPE.features(raw, "new.csv")


def test_columns_that_are_not_there_and_arrays_of_another_width() -> None:
    with pytest.raises(DataError, match=r"^the table has no column 'sex' and 'ward', which the model takes"):
        RECIPE.features({"age": AGE})
    with pytest.raises(DataError, match=r"has the shape \(4, 2\), and the model takes \(samples, 3\)"):
        RECIPE.features(np.zeros((4, 2)))
    plain = Preprocessing((ColumnRecipe("age"),))
    with pytest.raises(DataError, match=r"1 value\(s\) missing \(row 2\), and the model was trained without"):
        plain.features({"age": AGE})
    nameless = Preprocessing((ColumnRecipe("", center=1.0), ColumnRecipe("")))
    assert nameless.features(np.ones((2, 2))).tolist() == [[0, 1], [0, 1]]
    with pytest.raises(DataError, match="columns by name, and the model was trained on 2 without names"):
        nameless.features({"a": AGE})


def test_images_are_one_column() -> None:
    recipe = Preprocessing((ColumnRecipe("image", "image", center=0.5, scale=0.25),))
    images = np.random.default_rng(0).random((3, 1, 4, 4))
    assert np.array_equal(recipe.features(images), ((images - 0.5) / 0.25).astype(np.float32))
    assert Preprocessing.from_json(recipe.to_json()) == recipe
    with pytest.raises(DataError, match="the model takes images"):
        recipe.features(images[0])
