"""Whose a record is: read alike from every kind of file and list, refused where it is not said, not told."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl.config import parse
from silofl.errors import ConfigError, DataError
from silofl.tasks import build
from silofl.tasks.checks import data_of
from silofl.tasks.owner_numbers import numbered, owners_of
from tests.privacy.test_patients import Owned


@pytest.mark.parametrize("kind", ["csv", "quoted", "parquet", "npz"])
def test_owners_are_the_same_in_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    x, who = np.arange(20.0).reshape(10, 2), np.array([7, 7, 8, 9, 9, 9, 10, 11, 12, 7])
    y = np.arange(10) % 2
    path = tmp_path / f"t.{'csv' if kind == 'quoted' else kind}"
    if kind == "npz":
        np.savez(path, x=x, y=y, owner=who.astype(float))
    elif kind == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"a": x[:, 0], "b": x[:, 1], "who": who, "label": y}), path)
    else:
        cell = '"{}"' if kind == "quoted" else "{}"
        lines = [f"{a},{cell.format(w)},{b},{c}" for (a, b), w, c in zip(x, who, y, strict=True)]
        path.write_text("\n".join(["a,who,b,label", *lines]))
    task: Any = build(
        parse(
            {
                "task": {"name": "files", "classes": 2},
                "data": {"path": str(path), "owner_column": "who", "test_fraction": 0.01},
            }
        )
    )
    samples = task.read(0)
    assert numbered(samples.owners).tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 5, 0]
    key = hashlib.sha256(b"silofl: whose a record is" + bytes(8)).digest()
    assert (
        samples.owners[0].astype(">u8").tobytes() == hashlib.blake2b(b"7", digest_size=16, key=key).digest()
    )
    assert samples.features.shape == (10, 2)


def test_a_misspelt_owner_column_is_no_feature_with_wrong_values(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,who,label\n1,Ann,0\n2,Bob,1\n")
    (tmp_path / "two.csv").write_text("a,who,label\nx,Ann,0\n2,Bob,1\n")
    told = {}
    for name in ("t.csv", "two.csv"):
        data = {"path": str(tmp_path / name), "owner_column": "whom"}
        task: Any = build(parse({"task": {"name": "files", "classes": 2}, "data": data}))
        with pytest.raises(DataError) as refused:
            task.read(0)
        told[name] = str(refused.value)
    assert told["t.csv"].endswith("no owner column 'whom': set data.owner_column to one of 'a' and 'who'")
    assert "not numeric" in told["two.csv"], "which of two it is cannot be told"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": {"owner_column": ""}}, "set data.owner_column to the column"),
        ({"data": {"owner_column": "nobody"}}, "there is no owner column 'nobody'"),
        ({"data": {"owner_column": "label"}}, "is data.target, too"),
        ({"task": {"name": "digits"}, "data": {"path": "", "owner_column": ""}}, "does not tell"),
        ({"task": {"name": "digits"}, "data": {"path": ""}}, "reads none"),
        ({"privacy": {"unit": "example", "institutions_per_patient": 2}}, "asks not whose a record is"),
        ({"privacy": {"unit": "silo", "records_per_patient": 2}}, "asks not whose a record is"),
        ({"privacy": {"institutions_per_patient": 2, "accountant": "rdp"}}, "no Renyi divergence"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path: Path, change: Any, told: str) -> None:
    from silofl.tasks.early import read_early, refuse_early

    (tmp_path / "t.csv").write_text("a,who,label\n1,Ann,0\n2,Bob,1\n")
    tables: dict[str, Any] = {
        "task": {"name": "files", "classes": 2},
        "data": {"path": str(tmp_path / "t.csv"), "owner_column": "who"},
        "privacy": {"unit": "patient", "noise_multiplier": 1.0},
        "strategy": {"name": "fedsgd"},
    }
    for section, keys in change.items():
        tables[section] = tables[section] | keys

    def start() -> None:
        config = parse(tables)
        refuse_early(config, 0)
        read_early(config, 0)

    with pytest.raises((ConfigError, DataError), match=told) as refused:
        start()
    assert "Ann" not in str(refused.value)


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["Ann", "", "Bob"], r"owner column 'who' has 1 missing value\(s\) \(line 3\)"),
        (["n/a", "Ann", "NaN"], r"2 missing value\(s\) \(lines 2 and 4\)"),
    ],
)
def test_a_row_of_nobody_is_named_and_no_owner_is(tmp_path: Path, cells: list[str], told: str) -> None:
    from silofl.tasks.early import read_early

    rows = [f"{k},{cell},{k % 2}" for k, cell in enumerate(cells)]
    (tmp_path / "t.csv").write_text("\n".join(["a,who,label", *rows]))
    data = {"path": str(tmp_path / "t.csv"), "owner_column": "who"}
    config = parse({"task": {"name": "files", "classes": 2}, "data": data})
    with pytest.raises(DataError, match=told) as refused:
        read_early(config, 0)
    assert "Ann" not in str(refused.value)


@pytest.mark.parametrize(
    ("owners", "told"),
    [
        (["Ann"] * 3, r"3 value\(s\) beside 200"),
        (["Ann"] * 199 + [None], "the first of sample 199"),
        ([float("nan")] * 200, "200 that are missing"),
        (np.zeros((200, 2)), "no list of numbers or texts"),
    ],
)
def test_owners_of_a_task_of_ones_own_are_one_for_each_sample(owners: Any, told: str) -> None:
    with pytest.raises(DataError, match=told) as refused:
        data_of(Owned(owners).data(2, 3), 2)
    assert "silo 2" in str(refused.value)
    assert "Ann" not in str(refused.value)


@pytest.mark.parametrize(
    "owners",
    [
        [7, "7", 7.0, np.int64(7), Decimal("7.0"), " 7 ", "7.0", b"7.00"],
        ["-3.0", -3, "-3"],
        ["a ", "a", b"a", "a", " a", "a"],
        ["Andre\u0301", "Andr\xe9"] * 3,
    ],
)
def test_an_owner_is_one_however_it_is_written(owners: list[Any]) -> None:
    for given in (owners, np.array(owners, dtype=object)):
        found = owners_of(given, len(owners), 2)
        assert found is not None
        assert set(found.tolist()) == {0}


@pytest.mark.parametrize(
    "owner", [float("nan"), None, "", " ", "NaN", "n/a", np.datetime64("NaT"), 2.0**60, object()]
)
def test_a_sample_of_nobody_is_refused_in_every_kind_of_list(owner: Any) -> None:
    for given in (["p1", owner], np.array(["p1", owner], dtype=object)):
        with pytest.raises(DataError, match=r"silo 2: .* the first of sample 1"):
            owners_of(given, 2, 2)
