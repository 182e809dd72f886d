"""Categories, missing values and identifiers: a loaded model does with new samples what training did."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import silofl
from silofl.cli import app
from silofl.inference.evaluation import evaluate_on, labelled_files

SILOS = 3


def write(path: Path, seed: int, *, labelled: bool = True) -> None:
    rng = np.random.default_rng(seed)
    lines = ["patient,ward,sex,age,glucose" + ",outcome" * labelled]
    for k in range(60):
        age, glucose = rng.normal(60, 10), rng.normal(6, 1)
        ward, sex = rng.choice(["A", "B", "C"]), rng.choice(["f", "m", ""], p=[0.5, 0.4, 0.1])
        cells = [f"p{k}", ward, sex, "" if k % 9 == 0 else f"{age:.2f}", f"{glucose:.2f}"]
        lines.append(",".join([*cells, *[str(int(age + 5 * glucose > 90))] * labelled]))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> silofl.Result:
    folder = tmp_path_factory.mktemp("columns")
    for silo in range(SILOS):
        write(folder / f"{silo}.csv", silo)
    columns = {
        "target": "outcome",
        "id": "patient",
        "categorical": {"sex": ["f", "m", "missing"], "ward": "union"},
        "impute": "mean",
        "flag_missing": ["age"],
        "standardize": "federated",
    }
    tables = {
        "run": {"dir": str(folder / "run"), "display": "none", "rounds": 2},
        "task": {"name": "files", "classes": 2, "hidden": [8]},
        "data": {"path": str(folder / "{silo}.csv"), **columns},
    }
    return silofl.simulate(tables, silos=SILOS)


def test_evaluation_is_the_runs_own_bit_for_bit(result: silofl.Result) -> None:
    torch.set_num_threads(1)
    files = [result.path.parent / f"{silo}.csv" for silo in range(SILOS)]
    found = evaluate_on(result.model, labelled_files(result.model, files, held_out=True))
    for one, own in zip(found, result.summary["metrics_per_silo"], strict=False):
        assert one.metrics == {name: own[name] for name in ("loss", "accuracy", "auc")}


def test_new_samples_are_predicted_by_their_identifiers(result: silofl.Result, tmp_path: Path) -> None:
    write(tmp_path / "new.csv", 9, labelled=False)
    done = CliRunner().invoke(app, ["predict", str(result.path), str(tmp_path / "new.csv")])
    assert done.exit_code == 0, done.exception
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["patient"] for row in found] == [f"p{k}" for k in range(60)]
    rows = list(csv.DictReader((tmp_path / "new.csv").read_text().splitlines()))
    columns = {name: [row[name] for row in rows] for name in ("sex", "ward", "age", "glucose")}
    assert [row["prediction"] for row in found] == result.model.predict(columns).tolist()


def test_the_first_layer_takes_places_of_categories_and_nan(result: silofl.Result) -> None:
    model = result.model
    recipe = model.card.preprocessing
    assert recipe is not None
    wards = dict(zip(recipe.names, recipe.columns, strict=True))["ward"].categories
    assert recipe.names == ("age", "glucose", "sex", "ward")
    raw = torch.tensor([[torch.nan, 6.1, 2, wards.index("B")], [71.0, 5.5, 0, wards.index("A")]])
    given = {"age": ["", 71.0], "glucose": raw[:, 1].double().numpy(), "sex": ["", "f"], "ward": ["B", "A"]}
    with torch.no_grad():
        assert np.array_equal(model(raw).numpy(), model.outputs(given))


def test_an_array_of_numbers_has_no_categories(result: silofl.Result) -> None:
    raw = np.array([[71.0, 5.5, 0, 1]])  # places of categories, as the first layer takes them
    for given in (raw, torch.tensor(raw)):
        with pytest.raises(
            silofl.DataError, match="no categories, which the model takes in 'sex' and 'ward'"
        ):
            result.model.outputs(given)
    texts = np.array([["71.0", "5.5", "f", "A"]])
    by_name = {"age": [71.0], "glucose": [5.5], "sex": ["f"], "ward": ["A"]}
    assert np.array_equal(result.model.outputs(texts), result.model.outputs(by_name))


def test_several_columns_of_one_name_are_refused(result: silofl.Result) -> None:
    given = {"age": [71.0], " age": [17.0], "glucose": [5.5], "sex": ["f"], "ward": ["A"]}
    with pytest.raises(silofl.DataError, match="has several columns 'age'"):
        result.model.predict(given)
