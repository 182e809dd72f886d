"""What silos find together of their columns: categories by name, means for missing values, one recipe."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from silofl import config as configuration
from silofl.comm.threads import run_in_threads
from silofl.errors import DataError, SiloflError
from silofl.federation.dry_run import dry_run
from silofl.federation.loop import train
from silofl.report.dry_run_table import print_dry_run
from silofl.tasks import build
from silofl.tasks.category_union import MOST, table_of, texts_of
from silofl.tasks.preprocessing import Preprocessing
from silofl.tasks.readers.category_texts import category_text, is_missing

SILOS = 3
WARDS = (("A", "B", "größe"), ("A", "C"), ("B", "rare"))


def written(folder):
    """Numbers of which some are missing, and categories of which one has a single record."""
    for silo in range(SILOS):
        rng = np.random.default_rng(silo)
        rows = ["age,ward,label"]
        for k in range(80):
            wards = WARDS[silo]
            ward = wards[0] if wards[k % len(wards)] == "rare" and k > 1 else wards[k % len(wards)]
            age = "" if rng.random() < 0.2 else repr(float(rng.normal(50 + 9 * silo, 10)))
            rows.append(f"{age},{ward if k % 13 else ''},{k % 2}")
        (folder / f"{silo}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def settings_of(folder, protocol="secagg", rounds=1, **data):
    tables = {
        "run": {"dir": str(folder / "run-{silo}"), "display": "none", "rounds": rounds},
        "task": {"name": "files", "classes": 2, "model": "linear"},
        "data": {"path": str(folder / "{silo}.csv"), "impute": "mean", "categorical": ["ward"], **data},
        "secure": {"protocol": protocol},
        "failure": {"policy": "shrink"},
    }
    return configuration.parse(tables)


def federate(config, **more):
    def rank(comm):
        try:
            return train(config, comm=comm, **more)
        except SiloflError as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=60)


def test_the_recipe_is_that_of_the_pooled_tables_and_is_kept_and_published(tmp_path, monkeypatch):
    written(tmp_path)
    config = settings_of(tmp_path, standardize="federated", flag_missing=["age"])
    summaries = federate(config)
    told = summaries[0]["preprocessing"]
    assert all(one["preprocessing"] == told for one in summaries)
    recipe = Preprocessing.from_json(told)
    assert recipe.feature_names == (
        *("age", "age missing", "ward=A", "ward=B", "ward=C", "ward=größe", "ward=missing", "ward=other"),
    )
    task = build(config)
    pooled = np.concatenate([task.training_numbers(silo) for silo in range(SILOS)])
    reference = make_pipeline(SimpleImputer(), StandardScaler()).fit(pooled)
    age = recipe.columns[0]
    assert age.impute == pytest.approx(reference[0].statistics_[0], rel=1e-14)
    assert (age.center, age.scale) == pytest.approx(
        (reference[1].mean_[0], reference[1].scale_[0]), rel=1e-13
    )
    task.agree(recipe)
    x = torch.cat([task.data(silo, SILOS).train.tensors[0] for silo in range(SILOS)]).numpy()
    assert np.allclose(x[:, :1], reference.transform(pooled), atol=1e-6)
    assert x[:, 1].sum() == np.isnan(pooled).sum()
    assert (x[:, 2:].sum(axis=1) == 1).all()
    kept = json.loads((tmp_path / "run-1" / "silo-0001" / "preprocessing.json").read_text())
    assert kept == told == json.loads((tmp_path / "run-0" / "summary.json").read_text())["preprocessing"]
    monkeypatch.setattr("silofl.federation.standardization._added_up", None)
    resumed = federate(
        settings_of(tmp_path, rounds=2, standardize="federated", flag_missing=["age"]), resume=True
    )
    assert [one["preprocessing"] for one in resumed] == [told] * SILOS


def test_a_category_of_few_records_is_not_told_and_check_shows_none(tmp_path, capsys):
    written(tmp_path)
    config = settings_of(tmp_path)
    found = dry_run(config, SILOS)
    assert (
        "a feature for each category that 5 training records"
        in {name: what for name, _, what in found.treatments}["ward"]
    )
    print_dry_run(found)
    shown = capsys.readouterr().out
    assert "what is done to it" in shown
    assert "größe" not in shown
    assert "rare" not in str(federate(config)[0]["preprocessing"])


def test_a_column_that_only_one_silo_has_is_refused_with_the_remedy(tmp_path):
    written(tmp_path)
    path = tmp_path / "1.csv"
    path.write_text(
        "\n".join(f"{line},{'7' if k else 'more'}" for k, line in enumerate(path.read_text().splitlines()))
    )
    for error in federate(settings_of(tmp_path)):
        assert "silo 1 are not those of silo 0: it has 'more'; " in str(error)
        assert "in data.drop" in str(error)
    assert federate(settings_of(tmp_path, drop=["more"]))[0]["rounds"] == 1


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["plain", "additive"])
def test_other_sums_find_the_same(tmp_path, protocol):
    written(tmp_path)
    one, other = (federate(settings_of(tmp_path / name, protocol, path=str(tmp_path / "{silo}.csv")))[0]
                  for name, protocol in (("a", "secagg"), ("b", protocol)))  # fmt: skip
    assert one["preprocessing"] == other["preprocessing"]


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=15)
CATEGORIES = TEXTS.map(category_text).filter(
    lambda text: not is_missing(text) and text not in ("missing", "other")
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(CATEGORIES, max_size=20), min_size=1, max_size=5), st.integers(0, 2**63 - 1))
def test_the_texts_of_a_sum_of_tables_are_their_union(silos, seed):
    total = sum(table_of(texts, seed) for texts in silos)
    assert texts_of(total, "ward", seed) == sorted(set().union(*silos))


@pytest.mark.parametrize("lie", ["missing", "other", "", "NA", "1.0", " b", "TRUE"])
def test_a_text_that_no_silo_may_tell_is_refused(lie):
    """Else the recipe has two features of one name, which no resume reads, or one that nothing can have."""
    with pytest.raises(DataError, match="or a silo's numbers are wrong"):
        texts_of(table_of(["b", lie], 0), "ward", 0)


def test_as_many_texts_as_there_may_be_and_more():
    many = [f"category {k}" for k in range(MOST)]
    for seed in range(5):
        assert texts_of(2 * table_of(many, seed), "ward", seed) == sorted(many)
    for total in (table_of([*many, "one more"], 0), table_of(many * 9, 0) * np.nan, table_of(many, 0) + 1):
        with pytest.raises(
            DataError, match="'ward' has more than 256 categories at all silos together, or a silo"
        ):
            texts_of(total, "ward", 0)


def test_a_column_without_any_value_has_no_mean(tmp_path):
    written(tmp_path)
    for silo in range(SILOS):
        path = tmp_path / f"{silo}.csv"
        head, *lines = path.read_text().splitlines()
        path.write_text("\n".join([head, *("," + line.partition(",")[2] for line in lines)]) + "\n")
    for error in federate(settings_of(tmp_path)):
        assert "column 'age' has no value at any silo, and so no mean for data.impute: name it in" in str(
            error
        )
