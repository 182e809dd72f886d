"""Tables as spreadsheets, databases and other programs write them: read as they were meant."""

import bz2
import gzip
import lzma
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from silofl.config import parse
from silofl.errors import DataError
from silofl.tasks import build

ROWS = np.column_stack([np.arange(10) + 0.5, np.arange(10) * 2, np.arange(10) % 2])
"""a, b and the label."""
TEXT = "a,b,label\n" + "".join(f"{a},{b:.0f},{label:.0f}\n" for a, b, label in ROWS)
SEMICOLONS = TEXT.replace(",", ";")


def everything(path, **data):
    task = {"name": "files", "classes": 2}
    built = build(parse({"task": task, "data": {"path": str(path), **data}}))
    sides = [side.tensors for side in built.data(0, 2)]
    rows = np.concatenate([np.column_stack([x, y]) for x, y in sides])
    return rows[np.argsort(rows[:, 0])], list(built.schema())


def written(folder, content, ending=".csv"):
    path = folder / f"mine{ending}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def said(capsys):
    """What of the files was passed over, without the line that none of so few rows is held out."""
    lines = capsys.readouterr().err.splitlines(keepends=True)
    return "".join(line for line in lines if "it only trains" not in line)


AS_WRITTEN = {
    "sep line": "sep=;\r\n" + SEMICOLONS,
    "quoted sep line": '"sep=\t"\n' + TEXT.replace(",", "\t"),
    "blanks before quotes": '"a", "b", "label"\n' + TEXT.partition("\n")[2],
    "blank lines first": "\n\n" + TEXT,
    "comments first": "# from the laboratory, all of it\n#\n" + TEXT,
    "old Macintosh": TEXT.replace("\n", "\r"),
    "a delimiter ends all lines": TEXT.replace("\n", ",\n"),
    "a delimiter ends all lines but the header": TEXT.replace("\n", ",\n").replace(",\n", "\n", 1),
    "a delimiter ends the header": TEXT.replace("\n", ",\n", 1),
    "lines of empty cells": TEXT + ",,\n , ,\n",
    "two byte order marks": "\ufeff\ufeff" + TEXT,
    "blanks around names": TEXT.replace("a,b", "\u00a0a , b"),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16, the other order": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-16 without a mark": TEXT.encode("utf-16-le"),
    "UTF-16 that begins with other letters": ("名前a,名前b,label\n" + TEXT.partition("\n")[2]).encode(
        "utf-16-be"
    ),
    "UTF-32": TEXT.encode("utf-32"),
    "UTF-32 without a mark": TEXT.encode("utf-32-be"),
}


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_a_table_as_other_programs_write_it(tmp_path, name):
    rows, schema = everything(written(tmp_path, AS_WRITTEN[name]))
    assert np.array_equal(rows, ROWS)
    names = ["名前a", "名前b"] if "other letters" in name else ["a", "b"]
    assert schema == [(name, "numbers") for name in names]


@pytest.mark.parametrize("header", ['"a, years";"b, mg";label', "a, years;b, mg;label"])
def test_a_delimiter_inside_a_name(tmp_path, header):
    rows, schema = everything(written(tmp_path, SEMICOLONS.replace("a;b;label", header)))
    assert np.array_equal(rows, ROWS)
    assert [name for name, _ in schema] == ["a, years", "b, mg"]


@pytest.mark.parametrize("names", ["0,1", "1,2"])
def test_names_that_count_the_columns(tmp_path, names):
    rows, schema = everything(written(tmp_path, TEXT.replace("a,b", names)))
    assert np.array_equal(rows, ROWS)
    assert [name for name, _ in schema] == names.split(",")


def test_a_line_end_inside_a_name(tmp_path):
    rows, schema = everything(written(tmp_path, TEXT.replace("a,b", '"a\nyears",b')))
    assert np.array_equal(rows, ROWS)
    assert schema[0][0] == "a\nyears"


def test_a_name_in_either_normal_form_is_one_name(tmp_path):
    names = {
        everything(written(tmp_path, TEXT.replace("a", unicodedata.normalize(form, f"größe [{micro}g]"), 1)))[
            1
        ][1]
        for form in ("NFC", "NFD")
        for micro in "\u00b5\u03bc"
    }
    assert names == {("größe [\u03bcg]", "numbers")}
    label = TEXT.replace("label", unicodedata.normalize("NFD", "größe"))
    task = {"name": "files", "classes": 2}
    data = {"path": str(written(tmp_path, label)), "target": "größe"}
    built = build(parse({"task": task, "data": data}))
    train, test = built.data(0, 2)
    assert len(train) + len(test) == 10


def test_units_that_a_silo_declares_or_its_file_has(tmp_path):
    path, units = written(tmp_path, TEXT), {" a": "\u00b5g/l "}
    in_micrograms = [("a", "numbers in \u03bcg/l"), ("b", "numbers")]
    assert everything(path, units=units)[1] == in_micrograms
    with pytest.raises(DataError, match=r"data\.units has 'label', which is no column of features: correct"):
        everything(path, units={"label": "mg"})
    fields = [pa.field("a", pa.float64(), metadata={b"unit": "\u00b5g/l".encode()})]
    fields += [pa.field("b", pa.float64()), pa.field("label", pa.int64(), metadata={b"unit": b"grade"})]
    parquet.write_table(pa.table(list(ROWS.T), pa.schema(fields)), tmp_path / "mine.parquet")
    assert everything(tmp_path / "mine.parquet")[1] == in_micrograms
    assert everything(tmp_path / "mine.parquet", units=units)[1] == in_micrograms
    with pytest.raises(
        DataError, match="column 'a' is in \u03bcg/l by the file, and in g/l by data\\.units: correct"
    ):
        everything(tmp_path / "mine.parquet", units={"a": "g/l"})


def test_classes_without_a_sample_are_told_to_the_silo_alone(tmp_path, capsys):
    task = {"name": "files", "labels": ["0", "1", "never"]}
    path = written(tmp_path, TEXT)
    build(parse({"task": task, "data": {"path": str(path)}})).data(0, 2)
    assert said(capsys) == f"silofl: silo 0: in {path} there is no sample of class 'never'\n"


@pytest.mark.parametrize(("ending", "module"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)])
def test_packed_text(tmp_path, ending, module):
    path = written(tmp_path, module.compress(TEXT.encode()), f".CSV{ending}")
    assert np.array_equal(everything(path)[0], ROWS)


def test_decimal_commas_where_the_silo_says_so(tmp_path):
    path = written(tmp_path, SEMICOLONS.replace(".", ","))
    assert np.array_equal(everything(path, decimal=",")[0], ROWS)
    with pytest.raises(DataError, match=r"column 'a' has 10 value\(s\) with other signs .* data.decimal"):
        everything(path)
    mixed = written(tmp_path, SEMICOLONS.replace(".", ",") + "1.234,5;2;0\n1.234;2;0\n")
    with pytest.raises(
        DataError, match=r"column 'a' has 2 value\(s\) with other signs .* \(lines 12 to 13\)"
    ):
        everything(mixed, decimal=",")


@pytest.mark.parametrize("number", ["1_000", "\u0661\u0662"])
def test_what_python_alone_takes_for_a_number_is_refused(tmp_path, number):
    with pytest.raises(DataError, match=r"column 'a' has 1 value\(s\) that are not numeric \(line 12\)"):
        everything(written(tmp_path, f"{TEXT}{number},2,0\n"))


def test_truth_values(tmp_path):
    text = "a,b,label\n" + "".join(f"{k},{'TRUE' if k % 3 else ' false'},{k % 2}\n" for k in range(9))
    rows, schema = everything(written(tmp_path, text))
    assert rows[:, 1].tolist() == [float(k % 3 > 0) for k in range(9)]
    assert schema == [("a", "numbers"), ("b", "truth values")]
    table = pa.table({"a": range(9), "b": [k % 3 > 0 for k in range(9)], "label": [k % 2 for k in range(9)]})
    parquet.write_table(table, tmp_path / "mine.parquet")
    assert everything(tmp_path / "mine.parquet")[1] == schema


def test_what_is_passed_over_is_said_in_one_line(tmp_path, capsys):
    path = written(tmp_path, "# one\n# two\n" + TEXT.replace("\n", ",\n") + ",,,\n")
    everything(path)
    assert said(capsys) == (
        f"silofl: silo 0: in {path} 2 comment line(s) are passed over; 1 line(s) without a value are passed "
        "over; 1 column(s) without a name and without a value are passed over\n"
    )
    everything(written(tmp_path, TEXT))
    assert said(capsys) == ""


def test_large_numbers_that_float32_does_not_tell_apart(tmp_path, capsys):
    text = "a,b,label\n" + "".join(f"{10**9 + k},{k},{k % 2}\n" for k in range(10))
    everything(written(tmp_path, text))
    assert "different values of 'a' are equal as float32" in capsys.readouterr().err
    rows, _ = everything(tmp_path / "mine.csv", center={"a": 1e9})
    assert len(np.unique(rows[:, 0])) == 10
    assert said(capsys) == ""


def test_parquet_that_other_engines_write(tmp_path):
    a, b, label = ROWS.T
    columns = {
        "a": pa.array([str(value) for value in a], pa.string_view()),
        " b ": pa.array([f"{value:.0f}".encode() for value in b], pa.binary()),
        "label": pa.array([b"1" if value else b"0" for value in label], pa.binary()),
    }
    parquet.write_table(pa.table(columns), tmp_path / "mine.parquet")
    rows, schema = everything(tmp_path / "mine.parquet")
    assert np.array_equal(rows, ROWS)
    assert [name for name, _ in schema] == ["a", "b"]


def test_an_archive_that_names_its_columns(tmp_path):
    x, y = ROWS[:, [1, 0]], ROWS[:, 2].astype(int)
    np.savez(tmp_path / "mine.npz", x=x, y=y, columns=np.array(["b", "a"]))
    rows, schema = everything(tmp_path / "mine.npz")
    assert np.array_equal(rows, ROWS)
    assert schema == [("a", "numbers"), ("b", "numbers")]
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    assert everything(tmp_path / "mine.npz")[1] == [("", "numbers")] * 2
    np.savez(tmp_path / "mine.npz", x=x, y=y, columns=np.array(["b"]))
    with pytest.raises(
        DataError, match=r"array 'columns' of .* has shape \(1,\).* one name, as text, for each"
    ):
        everything(tmp_path / "mine.npz")
