"""Data that cannot be trained on: each case one sentence that names the file, the silo and what to do."""

import gzip
import io
import re
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from silofl.config import parse
from silofl.errors import DataError
from silofl.tasks import build


def stop_reason(path, **task):
    task = task if "labels" in task else {"classes": 3, **task}
    built = build(parse({"task": {"name": "files", **task}, "data": {"path": str(path)}}))
    with pytest.raises(DataError) as caught:
        built.data(2, 4)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    assert "silo 2" in sentence
    return sentence


def csv(folder, text):
    path = folder / "mine.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


GOOD = "a,b,label\n" + "1,2,0\n" * 5

ALL = "{path} (silo 2) cannot be trained on: "
"""What begins a sentence about values."""

HEADLESS = (
    "its first line has numbers where {} of {} columns should have names: put a line with the names of all "
    "columns before the first sample"
)

TEXTS = {
    "": "silo 2 has no samples: {path} is empty",
    "\n\n": "silo 2 has no samples: {path} is empty",
    "a,b,label\n": "silo 2 has no samples: {path} is empty",
    GOOD.replace("label", "grade"): (
        ALL + "there is no label column 'label': set task.label_column to one of 'a', 'b' and 'grade'"
    ),
    "label\n1\n": ALL + "there is no column but the label 'label': add columns of features",
    GOOD.replace("b", "a", 1): ALL + "there are 2 columns 'a': rename or remove all but one",
    GOOD.replace("b", "label", 1): ALL + "there are 2 columns 'label': rename or remove all but one",
    GOOD.replace("a", "", 1): (
        ALL
        + "column 1 has no name or a row index's: name every column, and write the file without a row index"
    ),
    GOOD.replace("a", "Unnamed: 0", 1): ALL + "column 1 has no name or a row index's: .*",
    # A first line of values: no sentence has any of them, nor do other silos ever see them as names.
    "63.5,22.25,1\n" + "1,2,0\n" * 5: ALL + HEADLESS.format(3, 3),
    "63,22,label\n" + "1,2,0\n" * 5: ALL + HEADLESS.format(2, 3),
    "'0,5';'1e3';female\n".replace("'", "") + "1;2;0\n" * 5: ALL + HEADLESS.format(2, 3),
    GOOD + "1,female,0\n": (
        ALL + "column 'b' has 1 value(s) that are not numeric (line 7): encode them as numbers or remove the "
        "column"
    ),
    GOOD + "1,,0\n1,NA,0\n1,3,0\n1,nan,0\n1, ? ,0\n": (
        ALL + "column 'b' has 4 missing value(s) (lines 7 to 8 and 10 to 11): "
        "fill them in, or remove those rows or the column"
    ),
    GOOD + "1e39,2,0\n-inf,2,0\n": (
        ALL
        + "column 'a' has 2 value(s) that are infinite or too large for float32 (lines 7 to 8): correct them"
    ),
    GOOD + "1,2,\n1,2,nan\n": (
        ALL + "label column 'label' has 2 missing value(s) (lines 7 to 8): label those rows or remove them"
    ),
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
        ALL
        + "column 'a' has 2 date(s) (lines 7 to 8): write them as numbers, such as days, or remove the column"
    ),
    GOOD + '"1,5",2,0\n"1,234.5",2,0\n1\'234,2,0\n': (
        ALL
        + "column 'a' has 3 value(s) with other signs between digits than data.decimal (lines 7 to 9): set "
        "data.decimal to the sign before decimals, '.' or ',', and write none between thousands"
    ),
    GOOD + "true,2,0\n": ALL + "column 'a' has 1 truth value(s) among numbers: write all of one kind",
    GOOD + f"{2**53 + 1},2,0\n{2**53 + 2},2,0\n": (
        ALL + "column 'a' has 1 whole number(s) beyond 2^53, whose last digits would be lost (line 7): "
        "remove the "
        "column if it is an identifier"
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
        ALL
        + "the quotes on line 8 are not closed, or stand inside a value: correct the line; nothing after it "
        "was read"
    ),
    GOOD + '1,"2"3,0\n': ALL + "the quotes on line 7 are not closed, or stand inside a value: .*",
    'a,"b,label\n1,2,0\n': ALL + "the quotes of the header are not closed, or stand inside a name: .*",
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


def test_no_sentence_holds_what_stands_in_a_cell(tmp_path):
    for place in range(3):
        cells = ["1", "2", "0"]
        for secret in ("Miller", "7-7-1977", "77,777.7", "7" * 17, "0x777", "true77"):
            cells[place] = f'"{secret}"'
            said = stop_reason(csv(tmp_path, GOOD + ",".join(cells) + "\n"))
            assert secret not in said.replace(str(tmp_path), "")


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


def test_npz_without_its_arrays(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, features=np.zeros((4, 2)), y=np.zeros(4))
    assert stop_reason(path) == f"{path} (silo 2) has no array 'x': it has features, y"
    np.savez(path, x=np.zeros((4, 2)), target=np.zeros(4))
    assert stop_reason(path, label_column="diagnosis") == (
        f"{path} (silo 2) has no array 'diagnosis' or 'y': it has target, x"
    )


BAD_ARRAYS = [
    (np.zeros(4), np.zeros(4), r"array 'x' .* has shape \(4,\): it must be \(samples, features\) or"),
    (np.zeros((4, 3, 5, 5)), np.zeros(4), r"array 'x' .* has shape \(4, 3, 5, 5\): it must be"),
    (np.zeros((4, 0)), np.zeros(4), r"array 'x' .* has shape \(4, 0\): it must be"),
    (np.array([["a"]] * 4), np.zeros(4), r"array 'x' .* is not numeric but of type <U1"),
    (np.zeros((4, 2)), np.zeros(5), r"array 'y' .* has shape \(5,\) beside 4 samples in x"),
    (np.zeros((4, 2)), np.zeros((4, 2)), r"array 'y' .* has shape \(4, 2\) beside 4 samples in x"),
    (
        np.array([[1, np.nan]] * 4),
        np.zeros(4),
        r"array 'x' has 4 missing value\(s\) \(rows 1 to 4\): fill them in",
    ),
    (np.array([[1, np.inf]] * 4), np.zeros(4), r"array 'x' has 4 value\(s\) that are infinite"),
    (np.zeros((4, 2)), np.array([0, 1, np.nan, 0]), r"array 'y' has 1 missing value\(s\) \(row 3\)"),
    (
        np.zeros((4, 2)),
        np.array([0, 1, 3, 0]),
        r"array 'y' has 1 value\(s\) that are not an integer from 0 to 2 \(row 3\)",
    ),
    (np.zeros((0, 2)), np.zeros(0), r"silo 2 has no samples: .* is empty"),
]


@pytest.mark.parametrize(("x", "y", "sentence"), BAD_ARRAYS, ids=range(len(BAD_ARRAYS)))
def test_npz_with_bad_arrays(tmp_path, x, y, sentence):
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    assert re.search(sentence, stop_reason(tmp_path / "mine.npz"))


@pytest.mark.parametrize("name", ["x", "y"])
def test_npz_that_unpacks_to_more_than_the_memory(tmp_path, monkeypatch, name):
    """Zeros, of which a thousand are a byte: refused by the header, with no more than that unpacked."""
    given = {"x": np.zeros((40, 2)), "y": np.zeros(40), "other": np.zeros(1 << 20)}
    np.savez_compressed(tmp_path / "mine.npz", **given | {name: np.zeros((1 << 20, 1), np.uint8)})
    monkeypatch.setattr("silofl.tasks.readers.source.memory_bytes", lambda: (1 << 23) - 1)
    monkeypatch.setattr("numpy.lib.format.read_array", lambda *_, **__: pytest.fail("it is unpacked"))
    path = tmp_path / "mine.npz"
    assert stop_reason(path) == (
        f"array '{name}' of shape (1048576, 1) of {path} (silo 2) would take 0.0 GiB, and "
        "this machine has 0.0 GiB: give fewer samples"
    )


def test_npz_whose_header_says_more_than_there_is(tmp_path):
    path = tmp_path / "mine.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50, 2)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("y.npy", header.getvalue())
    assert " would take 16,777,216.0 GiB, and this" in stop_reason(path)


def write_both(path):
    x = np.random.default_rng(0).normal(size=(50, 2))
    if path.suffix == ".npz":
        np.savez(path, x=x, y=np.zeros(50))
    else:
        parquet.write_table(
            pa.table({"a": x[:, 0], "label": np.zeros(50)}),
            path,
            write_page_checksum=True,
            compression="none",
        )
    return path.read_bytes(), path.read_bytes().index(x[25, 0].tobytes())


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_truncated_files(tmp_path, ending, kept):
    path = tmp_path / f"mine.{ending}"
    whole, _ = write_both(path)
    path.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    said = {
        "npz": "is not an NPZ archive or is cut short",
        "parquet": "cannot be read as Parquet, it is damaged",
    }
    assert said[ending] in stop_reason(path)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_one_flipped_bit_in_a_number(tmp_path, ending):
    path = tmp_path / f"mine.{ending}"
    whole, place = write_both(path)
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert "is damaged" in stop_reason(path)


PARQUET = [
    ({"a": [1.0, None, None], "label": [0, 1, 2]}, r"column 'a' has 2 missing value\(s\)"),
    ({"a": [1, None, 2], "label": [0, 1, 2]}, r"column 'a' has 1 missing value\(s\)"),
    ({"a": [True, None, False], "label": [0, 1, 2]}, r"column 'a' has 1 missing value\(s\)"),
    ({"a": [1.0, 2.0, 3.0], "label": [0, None, 2]}, r"label column 'label' has 1 missing value\(s\)"),
    (
        {"a": [1.0, 2.0, 3.0], "label": ["x", None, "y"]},
        r"label column 'label' has 1 missing value\(s\)",
    ),
    (
        {"a": ["F", "M", "F"], "label": [0, 1, 2]},
        r"column 'a' has 3 value\(s\) that are not numeric \(rows 1 to 3\)",
    ),
    (
        {"a": [[1.0], [2.0], [3.0]], "label": [0, 1, 2]},
        r"column 'a' is of type list<element: double>, which is not numeric",
    ),
    ({"a": pa.array([0, 1, 2], pa.timestamp("s")), "label": [0, 1, 2]}, r"column 'a' is of type timestamp"),
    (
        {"a": [1.0, 2.0, 3.0], "grade": [0, 1, 2]},
        r"there is no label column 'label': set task.label_column to one of",
    ),
    ({"a": [1.0], "__index_level_0__": [3], "label": [0]}, r"column 2 has no name or a row index's"),
    (
        {"a": pa.array([], pa.float64()), "label": pa.array([], pa.int64())},
        r"silo 2 has no samples: .* is empty",
    ),
]


@pytest.mark.parametrize(("columns", "sentence"), PARQUET, ids=range(len(PARQUET)))
def test_parquet(tmp_path, columns, sentence):
    parquet.write_table(pa.table(columns), tmp_path / "mine.parquet")
    assert re.search(sentence, stop_reason(tmp_path / "mine.parquet"))


def test_folders_without_images(tmp_path):
    said = f"silo 2 has no samples: {tmp_path} has no images in folders that are named after the classes"
    assert stop_reason(tmp_path) == said
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "notes.txt").write_text("")
    Image.new("L", (8, 8)).save(tmp_path / "loose.png")
    assert stop_reason(tmp_path) == (
        f"{said}; 1 file(s) that are no images (1 .txt) are passed over; 1 image(s) outside of the classes' "
        "folders are passed over"
    )


def test_images_that_cannot_be_read_and_unknown_classes(tmp_path):
    """All of them in one sentence, and no folder's name, which may be a patient's."""
    for name in ("Miller", "0"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "a.png")
    whole = (tmp_path / "0" / "a.png").read_bytes()
    (tmp_path / "0" / "b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "0" / "c.png").write_bytes(b"")
    (tmp_path / "0" / "d.png").symlink_to(tmp_path / "away.png")
    assert stop_reason(tmp_path) == (
        f"{tmp_path} (silo 2) cannot be trained on: 3 image(s) (0/b.png, 0/c.png and 0/d.png) cannot "
        f"be read as "
        "an image, damaged or something else: replace or remove them; 1 folder(s) with 1 image(s) "
        "have names that "
        "are not an integer from 0 to 2: rename or remove them, or correct task.labels at every silo"
    )


def test_images_whose_values_are_no_numbers_or_of_two_scales(tmp_path):
    (tmp_path / "0").mkdir()
    Image.fromarray(np.array([[np.nan, 1], [2, np.inf]], np.float32)).save(tmp_path / "0" / "a.tif")
    Image.new("L", (8, 8)).save(tmp_path / "0" / "b.tif")
    assert stop_reason(tmp_path) == (
        f"{tmp_path} (silo 2) cannot be trained on: 1 image(s) (0/a.tif) of float or 32-bit values "
        f"stay as they "
        "are, and others are scaled from 0 to 1: write all of one type; 1 image(s) (0/a.tif) with "
        "values that "
        "are missing or infinite: correct them"
    )


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
0 setgray 0 0 10 10 rectfill
showpage
%%EOF
"""


def test_an_image_of_another_format_starts_no_program(tmp_path, monkeypatch):
    """Pillow knows a format by its content, and would give an EPS to Ghostscript."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "gs").write_text(f"#!/bin/sh\n: > {tmp_path}/started\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    (tmp_path / "images" / "7").mkdir(parents=True)
    (tmp_path / "images" / "7" / "a.png").write_bytes(EPS)
    assert "cannot be read as an image" in stop_reason(tmp_path / "images")
    assert not (tmp_path / "started").exists()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "7" / "a.png", "GIF")
    assert "cannot be read as an image" in stop_reason(tmp_path / "images")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8200, 10000, 20000])  # below pillow's limits, between them, above them
def test_a_decompression_bomb_is_one_sentence(tmp_path, side):
    (tmp_path / "7").mkdir()
    Image.new("1", (side, side)).save(tmp_path / "7" / "a.png")
    assert "1 image(s) (7/a.png) would unpack to more than 67108864 pixels" in stop_reason(tmp_path)
