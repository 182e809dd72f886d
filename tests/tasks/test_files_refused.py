"""Data that cannot be trained on: each case one sentence that names the file, the silo and what to do."""

import gzip
import os
import re

import pytest

from silofl.config import parse
from silofl.errors import DataError
from silofl.tasks import build
from tests.tasks.refused import GOOD, csv, stop_reason

ALL = "{path} (silo 2) cannot be trained on: "
"""What begins a sentence about values."""

TEXTS = {
    "": "silo 2 has no samples: {path} is empty",
    "\n\n": "silo 2 has no samples: {path} is empty",
    "a,b,label\n": "silo 2 has no samples: {path} is empty",
    GOOD.replace("label", "grade"): (
        ALL + "there is no label column 'label' among the 3 name(s) in the first line: set data.target "
        "to one of them, or write a line of names first"
    ),
    "label\n1\n": ALL + "there is no column but the label 'label': add columns of features",
    GOOD.replace("b", "a", 1): ALL + "there are 2 columns 'a': rename or remove all but one",
    GOOD.replace("b", "label", 1): ALL + "there are 2 columns 'label': rename or remove all but one",
    GOOD.replace("a", "", 1): (
        ALL
        + "column 1 has no name or a row index's: name every column, and write the file without a row index"
    ),
    GOOD.replace("a", "Unnamed: 0", 1): ALL + "column 1 has no name or a row index's: .*",
    GOOD + "1,female,0\n": (
        ALL + "column 'b' has 1 value(s) that are not numeric (line 7): if they are categories, name "
        "the column in data.categorical, else in data.drop"
    ),
    GOOD + "1,,0\n1,NA,0\n1,3,0\n1,nan,0\n1, ? ,0\n": (
        ALL + "column 'b' has 4 missing value(s) (lines 7 to 8 and 10 to 11): "
        "fill them in, say in data.impute what stands for them, or remove those rows, or the column by "
        "data.drop"
    ),
    GOOD + "1e39,2,0\n-inf,2,0\n": (
        ALL
        + "column 'a' has 2 value(s) that are infinite or too large for float32 (lines 7 to 8): correct them"
    ),
    GOOD + "1,2,\n1,2,nan\n": (
        ALL + "label column 'label' has 2 missing value(s) (lines 7 to 8): label those rows or remove them"
    ),
    GOOD + "1,2,NA\n1,2,null\n": ALL + "label column 'label' has 2 missing value(s) (lines 7 to 8): .*",
    GOOD + "1,2,3\n1,2,-1\n": (
        ALL
        + "label column 'label' has 2 value(s) that are not an integer from 0 to 2 (lines 7 to 8): correct "
        "them, or raise task.classes or name the words in task.labels, the same at every silo"
    ),
    GOOD + "1,2,0.5\n": ALL + "label column 'label' has 1 value(s) that are not an integer from 0 to 2 .*",
    GOOD + "1,2,inf\n": ALL + "label column 'label' has 1 value(s) that are not an integer from 0 to 2 .*",
    GOOD + "1,2\n1,2,0,9\n": (
        ALL + "2 line(s) do not have as many values as the header has names, which is 3 (lines 7 to 8): "
        "correct them"
    ),
    GOOD + GOOD: ALL + "the header is repeated (line 7): remove the repetition",
    GOOD + "2024-01-31,2,0\n31.01.2024,2,0\n": (
        ALL + "column 'a' has 2 date(s) (lines 7 to 8): write them as numbers, such as days, or name the "
        "column in data.drop"
    ),
    GOOD + '"1,5",2,0\n"1,234.5",2,0\n1\'234,2,0\n': (
        ALL
        + "column 'a' has 3 value(s) with other signs between digits than data.decimal (lines 7 to 9): set "
        "data.decimal to the sign before decimals, '.' or ',', and write none between thousands"
    ),
    GOOD + "true,2,0\n": ALL + "column 'a' has 1 truth value(s) among numbers: write all of one kind",
    GOOD + f"{2**53 + 1},2,0\n{2**53 + 2},2,0\n": (
        ALL + "column 'a' has 1 whole number(s) beyond 2^53, whose last digits would be lost (line 7): "
        "if they are an identifier, name the column in data.id or data.drop"
    ),
    GOOD + "1_000,2,0\n\u0661,2,0\n0x10,2,0\n\u22121,2,0\n5%,2,0\n": (
        ALL + "column 'a' has 5 value(s) that are not numeric (lines 7 to 11): .*"
    ),
    "a,b,label\n1,2,0\n": (
        "{path} (silo 2) has 1 sample(s), too few to train on one and hold out another: give it at least 2"
    ),
    GOOD.encode() + b"1,\xff\xfe,0\n": (
        "line 7 of {path} (silo 2) is not in the file's encoding: save the file as CSV in UTF-8"
    ),
    GOOD + '1,2,0\n1,"2,0\n1,2,0\n': (
        ALL + "the quotes on line 8 are not closed, or stand inside a value, or a value has more than 131072 "
        "letters: correct the line; nothing after it was read"
    ),
    GOOD + '1,"2"3,0\n': ALL + "the quotes on line 7 are not closed, or stand inside a value, .*",
    'a,"b,label\n1,2,0\n': ALL + "the quotes of the header are not closed, or stand inside a name: .*",
    b"\0" + GOOD.encode(): (
        ALL + "the names of columns have zero bytes, as a damaged file or no text has: write the file anew"
    ),
    GOOD.encode() + b"\x001,2,0\n": ALL + "column 'a' has 1 value(s) that are not numeric (line 7): .*",
    GOOD.encode("utf-16") + b"\n": (
        "the text of {path} (silo 2) is not in the file's encoding: save the file as CSV in UTF-8"
    ),
    GOOD + "x,2,0\n,2,9\n1,2\n": (
        ALL + "1 line(s) do not have as many .* (line 9): correct them; column 'a' has 1 missing value(s) "
        "(line 8): .*; column 'a' has 1 value(s) that are not numeric (line 7): .*; "
        "label column 'label' has 1 value(s) that are not .* (line 8): .*"
    ),
}


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_csv(tmp_path, text):
    path = csv(tmp_path, text)
    pattern = re.escape(TEXTS[text]).replace(r"\.\*", ".*").replace(r"\{path\}", re.escape(str(path)))
    assert re.fullmatch(pattern, stop_reason(path))


def test_many_rows_are_not_all_listed(tmp_path):
    rows = "".join(f"{k},{'x' if k % 2 else 2},0\n" for k in range(100))
    assert "has 50 value(s) that are not numeric (lines 3, 5, 7, 9, 11 and 45 more)" in stop_reason(
        csv(tmp_path, "a,b,label\n" + rows)
    )


def test_what_many_columns_have_is_said_once(tmp_path):
    rows = "1,5;1,5;2;1;0\n" * 3 + "1,5;1,5;2,5;1;0\n"
    said = stop_reason(csv(tmp_path, "a;b;c;d;label\n" + rows))
    signs = "value(s) with other signs between digits than data.decimal"
    assert (
        f"columns 'a' and 'b' each have 4 {signs} (lines 2 to 5) and column 'c' has 1 {signs} (line 5)"
        in said
    )
    assert said.count("set data.decimal") == 1

    names = [f"c{k:02}" for k in range(30)]
    rows = "".join(";".join("0,5" if row == k else "1" for k in range(30)) + ";0\n" for row in range(30))
    said = stop_reason(csv(tmp_path, ";".join([*names, "label"]) + "\n" + rows))
    assert f"column 'c04' has 1 {signs} (line 6) and 25 more column(s): set data.decimal" in said


def test_no_sentence_holds_what_stands_in_a_cell(tmp_path):
    for place in range(3):
        cells = ["1", "2", "0"]
        for secret in ("Miller", "7-7-1977", "77,777.7", "7" * 17, "0x777", "true77"):
            cells[place] = f'"{secret}"'
            said = stop_reason(csv(tmp_path, GOOD + ",".join(cells) + "\n"))
            assert secret not in said.replace(str(tmp_path), "")


@pytest.mark.parametrize(
    "first", ["77.25,44,0", "7-7-1977,77.5,1", "Miller,-7.7e1,1", "7,77 777,0", "\1PK,7,1"]
)
def test_no_sentence_holds_the_first_sample_of_a_file_without_a_header(tmp_path, first):
    said = stop_reason(csv(tmp_path, f"{first}\n" + GOOD.partition("\n")[2] + "x,Smith,7\n"))
    assert "there is no label column 'label', and" in said
    assert "as in a file without a header: write a name for each column into the first line" in said
    for secret in (*first.split(","), "Smith"):
        if len(secret) > 1:
            assert secret not in said.replace(str(tmp_path), "")


def test_numbers_may_be_names_beside_a_label(tmp_path):
    path = csv(tmp_path, "0,1,label\n" + "1,2,0\n" * 5)
    built = build(parse({"task": {"name": "files", "classes": 3}, "data": {"path": str(path)}}))
    built.data(0, 1)
    assert built.schema() == (("0", "numbers"), ("1", "numbers"))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "mine.csv")
    (tmp_path / "link.csv").symlink_to("/dev/zero")
    for name in ("mine.csv", "link.csv"):
        assert "is neither a file nor a folder, such as a pipe or a device" in stop_reason(tmp_path / name)


def test_a_damaged_packed_file(tmp_path):
    path = tmp_path / "mine.csv.gz"
    path.write_bytes(gzip.compress(GOOD.encode())[:-9])
    assert "cannot be read as CSV, it is damaged or something else (EOFError)" in stop_reason(path)
    path.write_bytes(GOOD.encode())
    assert stop_reason(path).endswith("it is damaged or something else (BadGzipFile)")


def test_a_packed_file_that_unpacks_to_more_than_the_memory(tmp_path, monkeypatch):
    path = tmp_path / "mine.csv.gz"
    path.write_bytes(gzip.compress(GOOD.encode() * 10_000))
    monkeypatch.setattr("silofl.tasks.readers.source.memory_bytes", lambda: 1 << 16)
    assert stop_reason(path).startswith(f"the table of {path} (silo 2) would take 0.0 GiB")


def test_an_unknown_word(tmp_path):
    path = csv(tmp_path, "a,label\n1,benign\n2,malign\n3,benign\n")
    assert stop_reason(path, labels=["benign", "malignant"]) == (
        f"{path} (silo 2) cannot be trained on: label column 'label' has 1 value(s) that are not one of "
        "task.labels = ['benign', 'malignant'] (line 3): correct them, or add them to task.labels at "
        "every silo"
    )


def test_missing_file_names_the_path_and_the_silo(tmp_path):
    assert stop_reason(tmp_path / "away.csv") == (
        f"{tmp_path / 'away.csv'} (silo 2) does not exist: check data.path"
    )
    with pytest.raises(DataError, match=r"silo-2\.npz \(silo 2\) does not exist"):
        build(
            parse(
                {"task": {"name": "files", "classes": 2}, "data": {"path": str(tmp_path / "silo-{silo}.npz")}}
            )
        ).data(2, 4)


def test_unknown_kind(tmp_path):
    (tmp_path / "mine.xlsx").write_bytes(b"x")
    assert stop_reason(tmp_path / "mine.xlsx").endswith(
        "is of no known kind: give a folder of images or a file .npz, .csv, .tsv, .parquet, .pq"
    )


@pytest.mark.parametrize("name", ["csv", "npz", "parquet", "folder"])
def test_no_permission(tmp_path, monkeypatch, name):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.stat", refuse)
    path = tmp_path / f"mine.{name}"
    assert stop_reason(path) == f"{path} (silo 2) may not be read: permission denied"
