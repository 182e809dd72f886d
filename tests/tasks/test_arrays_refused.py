"""NPZ and Parquet files that cannot be trained on: each case one sentence that names file and silo."""

import io
import re
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.tasks.refused import stop_reason


def test_npz_without_its_arrays(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, features=np.zeros((4, 2)), y=np.zeros(4))
    assert stop_reason(path) == f"{path} (silo 2) has no array 'x': it has features, y"
    np.savez(path, x=np.zeros((4, 2)), target=np.zeros(4))
    assert stop_reason(path, target="diagnosis") == (
        f"{path} (silo 2) has no array 'diagnosis' or 'y': it has target, x"
    )


BAD_ARRAYS = [
    (np.zeros(4), np.zeros(4), r"array 'x' .* has shape \(4,\): it must be \(samples, features\),"),
    (np.zeros((4, 2, 5, 5)), np.zeros(4), r"array 'x' .* has shape \(4, 2, 5, 5\): it must be"),
    (np.zeros((4, 0)), np.zeros(4), r"array 'x' .* has shape \(4, 0\): it must be"),
    (np.array([[None]] * 4), np.zeros(4), r"array 'x' of .* holds Python objects, which are never loaded"),
    (np.zeros((4, 2)), np.array(["0", None] * 2), r"array 'y' of .* holds Python objects, which are never"),
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


def test_npz_of_colours_where_greys_are_asked_for(tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.zeros((4, 8, 8, 3), np.uint8), y=np.zeros(4))
    said = "has 3 channel(s) and task.channels = 1: convert the images, or change it"
    assert said in stop_reason(tmp_path / "mine.npz", channels=1)


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
        r"there is no label column 'label': set data.target to one of",
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
