"""A table in a folder of parts: all of it, or one sentence."""

import gzip
import re

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from silofl.errors import DataError
from tests.tasks.test_tables import ROWS, TEXT, everything

COLUMNS = dict(zip(("a", "b", "label"), ROWS.T, strict=True))


def write(path, names=("a", "b", "label"), **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({name: COLUMNS[name] for name in names} | more), path)


@pytest.fixture
def folder(tmp_path):
    """As Spark writes it, with what it leaves beside the parts."""
    path = tmp_path / "mine.parquet"
    write(path / "part-0.snappy.parquet")
    (path / "_SUCCESS").write_text("")
    (path / ".part-0.snappy.parquet.crc").write_text("")
    (path / "_temporary").mkdir()
    (path / "_temporary" / "part-9.parquet").write_text("not written to its end")
    return path


def test_parts_in_any_order_of_columns(folder):
    write(folder / "part-1.parquet", ("label", "b", "a"))
    assert np.array_equal(everything(folder)[0], ROWS.repeat(2, axis=0))


def test_columns_that_folders_name(tmp_path):
    for value in (0, 1):
        write(tmp_path / "mine.parquet" / f"label={value}" / "a%20unit=1%2E5" / "0.parquet", ("a", "b"))
    rows, schema = everything(tmp_path / "mine.parquet")
    assert [name for name, _ in schema] == ["a", "a%20unit", "b"]
    assert rows[:, 1].tolist() == [1.5] * 20
    assert sorted(rows[:, 3]) == [0] * 10 + [1] * 10


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_parts_of_text(tmp_path, ending):
    (tmp_path / "mine.csv").mkdir()
    for part in (0, 1):
        content = TEXT.encode()
        (tmp_path / "mine.csv" / f"{part}{ending}").write_bytes(
            gzip.compress(content) if ending.endswith("gz") else content
        )
    assert np.array_equal(everything(tmp_path / "mine.csv")[0], ROWS.repeat(2, axis=0))


def refused(path):
    with pytest.raises(DataError) as caught:
        everything(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_parts_that_do_not_fit(folder):
    write(folder / "part-1.parquet", ("a", "label"))
    assert refused(folder) == (
        f"{folder} (silo 0) cannot be trained on: part-1.parquet has other columns, or other kinds of "
        f"them, than "
        "part-0.snappy.parquet: write all parts alike"
    )


def test_every_part_s_problems_are_told(folder):
    for part in (1, 2):
        write(folder / f"part-{part}.parquet", ("b", "label"), a=[None, *ROWS[1:, 0]])
    assert re.fullmatch(
        r".*: part-1.parquet: column 'a' has 1 missing .* \(row 1\).*; part-2.parquet: column 'a' has 1 .*",
        refused(folder),
    )


def test_a_folder_that_holds_something_else_too(folder):
    (folder / "readme.txt").write_text("")
    assert refused(folder).endswith(
        "is a folder of parts and 1 of its 2 files do not end in .parquet: take them out"
    )


def test_a_folder_of_several_tables_is_not_taken_for_one(tmp_path):
    """They may be the silos' own, of which each would then read all."""
    for silo in (0, 1):
        (tmp_path / f"silo-{silo}.csv").write_text(TEXT)
    assert "is a folder of 2 table(s) and no images: name one file" in refused(tmp_path)


def test_a_folder_without_parts(tmp_path):
    (tmp_path / "mine.parquet").mkdir()
    assert refused(tmp_path / "mine.parquet").endswith("has no part with a row")
