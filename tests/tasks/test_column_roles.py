"""Columns that are no features, categories, and missing values: read, or refused by column and line."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from silofl.config import parse
from silofl.errors import ConfigError, DataError
from silofl.tasks import build
from silofl.tasks.readers import text as text_reader

TEXT = "no,age,sex,extra,y\n" + "".join(
    f"P{k},{'' if k % 4 == 3 else 30 + k},{'fm'[k % 2]},2024-01-{k + 1:02d},{k % 2}\n" for k in range(12)
)
ROLES = {"target": "y", "id": "no", "drop": ["extra", "nowhere"], "categorical": {"sex": ["f", "m"]}}


def task(path, classes=2, **data):
    tables = {"task": {"name": "files", "classes": classes}, "data": {"path": str(path), **ROLES, **data}}
    return build(parse(tables))


def written(folder, content=TEXT, name="mine.csv"):
    path = folder / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith("gz") else content.encode())
    return path


def everything(built):
    sides = [side.tensors for side in built.data(0, 2)]
    rows = np.concatenate([np.column_stack([x, y]) for x, y in sides])
    return rows[np.lexsort(rows.T[::-1])]


AGES = [30.0 + k for k in range(12) if k % 4 != 3]
EXPECTED = np.array(
    [
        [50.0 if k % 4 == 3 else 30 + k, k % 4 == 3, k % 2 == 0, k % 2 == 1, k % 2]
        for k in range(12)
    ]
)  # fmt: skip
EXPECTED = EXPECTED[np.lexsort(EXPECTED.T[::-1])]
FILLED = {"impute": {"age": 50}, "flag_missing": ["age"]}


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "npz", "hive.csv"])
def test_a_table_of_numbers_categories_and_what_is_no_feature(tmp_path, kind):
    lines = [line.split(",") for line in TEXT.splitlines()]
    columns = {name: [line[k] for line in lines[1:]] for k, name in enumerate(lines[0])}
    path = tmp_path / f"mine.{kind}"
    ages = np.array([float(one or "nan") for one in columns["age"]])
    labels, roles = np.array(columns["y"], int), {}
    if kind == "parquet":
        table = {**columns, "age": pa.array(ages, from_pandas=True), "y": labels}
        table["extra"] = pa.array([0] * 12, pa.timestamp("s"))
        parquet.write_table(pa.table({**table, "sex": pa.array(columns["sex"]).dictionary_encode()}), path)
    elif kind == "npz":  # of numbers alone
        x = np.column_stack(
            [np.arange(12), ages, [one == "m" for one in columns["sex"]], np.full(12, np.nan)]
        )
        np.savez(path, x=x, y=labels, columns=["no", "age", "sex", "extra"])
        roles = {"categorical": {"sex": ["0", "1"]}}
    elif kind == "hive.csv":
        for sex in "fm":
            part = path / f"sex={sex}"
            part.mkdir(parents=True)
            mine = [line for line in lines[1:] if line[2] == sex]
            rows = [",".join([*line[:2], *line[3:]]) for line in [lines[0], *mine]]
            written(part, "\n".join(rows) + "\n", "part.csv")
    else:
        written(tmp_path, TEXT, f"mine.{kind}")
    built = task(path, **FILLED, **roles)
    assert np.array_equal(everything(built), EXPECTED)
    assert [name for name, _ in built.schema()] == ["age", "sex"]
    assert built.passed_over == ("extra", "no")
    names = ("sex=0", "sex=1") if kind == "npz" else ("sex=f", "sex=m")
    assert built.preprocessing.feature_names == ("age", "age missing", *names)


def test_texts_do_not_make_reading_slow(tmp_path, monkeypatch):
    content = TEXT.replace(",,", ",77,")
    path = written(tmp_path, content)
    fast = everything(task(path))
    monkeypatch.setattr(text_reader._Table, "_take_slowly", None)
    assert np.array_equal(everything(task(path)), fast)
    monkeypatch.undo()
    monkeypatch.setattr(text_reader, "read_block", lambda *_: None)
    assert np.array_equal(everything(task(path)), fast)


def test_roles_of_records_do_not_depend_on_how_columns_are_treated(tmp_path):
    rows = "".join(f"P{k},{'' if k % 9 == 0 else k},{'fm'[k % 2]},d,{k % 2}\n" for k in range(300))
    path = written(tmp_path, TEXT.splitlines()[0] + "\n" + rows)
    kinds = [{"sex": ["f", "m"]}, {"sex": ["m", "f", "other"]}]
    tests = [task(path, impute={"age": -1}, categorical=kind).data(0, 2).test.tensors[0] for kind in kinds]
    assert sorted(tests[0][:, 0].tolist()) == sorted(tests[1][:, 0].tolist())
    assert np.array_equal(tests[0][:, 1], tests[1][:, 2])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            {},
            r"column 'age' has 3 missing value\(s\) \(lines 5, 9 and 13\): .*say in data.impute what stands",
        ),
        ({**FILLED, "categorical": {}}, r"'sex' has 12 value.*not numeric .*name the column in data.categor"),
        (
            {**FILLED, "categorical": {"sex": ["f"]}},
            r"'sex' has 6 value\(s\) that are none of data.categorical.sex \(lines 3, .*: correct them, "
            "or add 'other' to data.categorical.sex, which takes all such",
        ),
        ({**FILLED, "drop": []}, r"'extra' has 12 date\(s\) .* or name the column in data.drop"),
        ({**FILLED, "id": "number"}, "there is no id column 'number': set data.id to one of 'age', 'extra'"),
        ({**FILLED, "drop": [], "columns": ["age", "sexe"]}, "no column 'sexe', which data.columns takes"),
        (
            {**FILLED, "center": {"sex": 1.0}},
            "data.center has 'sex', which is no column of numbers: remove it",
        ),
        (
            {**FILLED, "categorical": {"sex": ["f", "m"], "no": ["P"]}},
            "data.categorical has 'no', which is no",
        ),
        ({"impute": {"age": 1, "bmi": 2}}, "data.impute has 'bmi', which is no column of features: correct"),
    ],
)
def test_what_does_not_fit_is_refused_by_column_and_line(tmp_path, data, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        task(written(tmp_path), **data).data(0, 2)
    assert "P1" not in str(caught.value).replace("'P'", "")


def test_empty_cells_of_categories_and_words_that_mean_it(tmp_path):
    content = TEXT.replace(",,", ",1,").replace("40,f", "40,").replace("31,m", "31,none")
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=r"'sex' has 2 missing value\(s\) \(lines 3 and 12\).*add 'missing'"):
        task(path).data(0, 2)
    named = everything(task(path, categorical={"sex": ["f", "m", "none", "missing"]}))
    assert named[:, 1:5].sum(axis=0).tolist() == [5, 5, 1, 1]


@pytest.mark.parametrize(
    ("data", "privacy", "sentence"),
    [
        ({"drop": ["a"], "columns": ["b"]}, {}, "data.drop and data.columns both say"),
        ({"drop": ["label"]}, {}, "data.drop would make the target 'label'"),
        ({"target": "y", "id": "y "}, {}, "data.id would make the target 'y'"),
        ({"columns": ["a", "label"]}, {}, "data.columns would make the target 'label'"),
        ({"drop": ["a"], "impute": {"a": 1}}, {}, "data.drop passes 'a' over, and another key of"),
        ({"categorical": ["a"], "impute": {"a": 1}}, {}, "empty cells of a column of categories go into"),
        ({"flag_missing": ["a"]}, {}, "data.flag_missing has 'a', and nothing says what stands"),
        ({"categorical": {"a": []}}, {}, r"data.categorical.a = \[\] must name categories, each once"),
        ({"categorical": ["a"]}, {"unit": "example"}, 'categorical.a = "union" tells which .*: list the cat'),
        ({"impute": "mean"}, {"unit": "example"}, 'data.impute = "mean" adds up records, .*: set publicly'),
    ],
)
def test_keys_that_contradict_each_other(data, privacy, sentence):
    privacy = {**privacy, **({"noise_multiplier": 1.0} if privacy else {})}
    with pytest.raises(ConfigError, match=sentence):
        parse({"task": {"name": "files", "classes": 2}, "data": {"path": "x", **data}, "privacy": privacy})


def test_keys_of_files_are_refused_for_other_tasks():
    with pytest.raises(
        ConfigError, match=r'data.id and data.drop are about columns of files, and task.name = "d'
    ):
        parse({"data": {"id": "no", "drop": ["x"]}})
    with pytest.raises(ConfigError, match=r"unknown key task.label_column: did you mean data.target\?"):
        parse({"task": {"label_column": "y"}})
