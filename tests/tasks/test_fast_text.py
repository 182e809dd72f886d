"""Tables of numbers are read fast, and exactly as by the strict reader, whatever is in them."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.config import parse
from silofl.tasks.readers import text
from silofl.tasks.readers.fast_text import Layout, read_block
from silofl.tasks.readers.source import Options, Source

ORDINARY = [
    "1",
    "-2.5",
    " 3",
    "4.",
    ".5",
    "1e3",
    "0x1p3",
    "-0",
    "9007199254740993",
    "1e39",
    "0.1",
    "2,5",
    "1.2e-5",
]
TRUTHS = ["true", "FALSE", "True", "tRuE"]
ODD = ["", " ", "NA", "nan", "inf", "+1", "1_0", "a", '"3"', '"3" ', ' "3"', '"4"y', '"', '""', '"1""2"',
       'x"y', "\u0661", "\u00a07", "3\t", "1 0", "2020-01-01", "f", "label", "\0", "0", '"a,b"',
       '"1\n2"']  # fmt: skip
LABELS = ["0", "1", " 1", "1.0", '"0"', "true", "2", "", "label", "1 "]
ENDS = ["\n", "\r\n", "\r", "\n\n", ",\n", ";\n", "\n,,\n", "\n \n"]
CELLS = st.one_of(st.sampled_from(ORDINARY), st.sampled_from(ORDINARY + TRUTHS + ODD))


@st.composite
def tables(draw):
    """Text of a table, most of whose lines are in order, and the sign before decimals."""
    delimiter = draw(st.sampled_from(",;\t"))
    width = draw(st.integers(1, 3))
    cells = st.sampled_from(ORDINARY[:4]) if draw(st.booleans()) else CELLS
    columns = [draw(st.sampled_from([cells, st.sampled_from(TRUTHS[:3])])) for _ in range(width)]
    end = draw(st.sampled_from(ENDS))
    labels = st.sampled_from(LABELS[: draw(st.sampled_from([2, 6, len(LABELS)]))])
    names = [*draw(st.permutations(["a", "b", "1"]))[:width], "label"]
    lines = [names]
    for _ in range(draw(st.integers(0, 6))):
        lines.append([*(draw(one) for one in columns), draw(labels)])
    text = "".join(delimiter.join(line) + draw(st.sampled_from(["\n", end])) for line in lines)
    return text, draw(st.sampled_from(".,"))


def read(path, content, decimal):
    path.write_text(content, newline="")
    task = parse({"task": {"classes": 2}}).task
    return text.read_csv(Source(path, 0), Options(task, decimal))


@settings(max_examples=150)
@given(tables())
def test_the_fast_reader_and_the_strict_one_are_equal(tmp_path_factory, table):
    path = tmp_path_factory.getbasetemp() / "equal.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_BLOCK", 20)  # characters: most tables are several blocks
        fast = read(path, *table)
        patch.setattr(text, "read_block", lambda *_: None)
        patch.setattr(text, "_BLOCK", 1 << 20)
        strict = read(path, *table)
    assert fast.features.tobytes() == strict.features.tobytes()
    assert np.array_equal(fast.labels, strict.labels)
    assert fast[2:] == strict[2:]


LAYOUT = Layout(",", ".", 3, 1, lambda label: label in ("0", "1"))


def test_what_is_read_fast():
    block = read_block('1,0,true\r\n"2.5", 1 ,"false"\r\n\r\n-1e3,"0",TRUE', ["1", "0", "true"], LAYOUT)
    assert [column.tolist() for column in block.columns.values()] == [[1, 2.5, -1000], [True, False, True]]
    assert block.labels == ["0", "1", "0"]


@pytest.mark.parametrize(
    "line",
    [
        '1,"0"x,true',
        '"1,0,true',
        "1,2,true",
        "1,0,1",
        ",0,true",
        "nan,0,true",
        "1e300,0,true",
        "1,0",
        "1,0,true,",
    ],
)
def test_what_needs_a_closer_look(line):
    assert read_block(f"1,0,true\n{line}\n", ["1", "0", "true"], LAYOUT) is None


def test_most_tables_are_read_fast(tmp_path, monkeypatch):
    """No row of a table in order goes through the csv module but the first and the header."""
    rows = "".join(f'{k}.5,{-k},"{k % 2}"\n' for k in range(500))
    lines = []
    reader = csv.reader
    monkeypatch.setattr(
        csv, "reader", lambda given, **how: reader((lines.append(one) or one for one in given), **how)
    )
    found = read(tmp_path / "mine.csv", "a,b,label\n" + rows, ".")
    assert len(lines) < 10
    assert found.features[:, 0].tolist() == [k + 0.5 for k in range(500)]
    assert not any(map(math.isnan, found.features[:, 1]))
