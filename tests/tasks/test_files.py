"""An institution's own data: what is read from each kind of file is what was written there."""

import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from silofl.config import parse
from silofl.errors import ConfigError, DataError, MissingDependencyError
from silofl.tasks import build
from silofl.tasks.readers import Options, Source, read
from silofl.tasks.readers.labels import encode

OPTIONS = Options(parse({"task": {"classes": 3, "image_size": [8, 8]}}).task)


def files(path, data=None, **task):
    task = {"classes": 3, **task} if "labels" not in task else task
    return build(parse({"task": {"name": "files", **task}, "data": {"path": str(path), **(data or {})}}))


def everything(task, silo=0, silos=2):
    """All samples, training and held-out, as sorted rows of features and label."""
    (x, y), (test_x, test_y) = (side.tensors for side in task.data(silo, silos))
    assert (x.dtype, y.dtype, test_x.dtype, test_y.dtype) == (torch.float32, torch.int64) * 2
    return sort(torch.cat([x, test_x]), torch.cat([y, test_y]))


def sort(x, y):
    table = np.column_stack([np.asarray(x, dtype=np.float32).reshape(len(x), -1), y])
    return table[np.lexsort(table.T)]


X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.arange(40) % 3
WORDS = np.array(["benign", "malignant", "not sure"])


def write_csv(path, x, y, names=("a", "b", "c"), delimiter=",", start=""):
    lines = [delimiter.join([*names, "label"])]
    lines += [
        delimiter.join([*(repr(float(value)) for value in row), str(label)])
        for row, label in zip(x, y, strict=True)
    ]
    path.write_text(start + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(path, x, y, names=("a", "b", "c")):
    columns = {name: x[:, k] for k, name in enumerate(names)}
    parquet.write_table(pa.table({**columns, "label": y}), path)
    return path


def write_npz(path, x, y):
    np.savez(path, x=x, y=y)
    return path


WRITERS = {".csv": write_csv, ".parquet": write_parquet, ".npz": write_npz}


@pytest.mark.parametrize("ending", WRITERS)
def test_numbers_and_integer_labels_come_back(tmp_path, ending):
    task = files(WRITERS[ending](tmp_path / f"mine{ending}", X, Y))
    assert np.array_equal(everything(task), sort(X, Y))
    train, test = task.data(0, 2)
    assert len(train) + len(test) == 40
    assert task.model()(train.tensors[0]).shape == (len(train), 3)


@pytest.mark.parametrize("ending", WRITERS)
def test_words_are_mapped_in_the_order_of_the_configuration(tmp_path, ending):
    path = WRITERS[ending](tmp_path / f"mine{ending}", X, WORDS[Y])
    assert np.array_equal(
        everything(files(path, labels=["malignant", "not sure", "benign"])), sort(X, (Y + 2) % 3)
    )


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_the_order_of_columns_does_not_matter(tmp_path, ending):
    path = WRITERS[ending](tmp_path / f"mine{ending}", X[:, [2, 0, 1]], Y, names=("c", "a", "b"))
    assert np.array_equal(everything(files(path)), sort(X, Y))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv_as_spreadsheets_write_it(tmp_path, delimiter, start):
    path = write_csv(tmp_path / "mine.csv", X, Y, delimiter=delimiter, start=start)
    assert np.array_equal(everything(files(path)), sort(X, Y))


def test_csv_with_quotes_blank_lines_and_windows_line_ends(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(b'"size, mm",label\r\n"1.5","not sure"\r\n\r\n 2e3 ,benign\r\n-1,malignant \r\n')
    task = files(path, labels=WORDS.tolist())
    assert np.array_equal(everything(task), sort(np.array([[1.5], [2000.0], [-1.0]]), [2, 0, 1]))


def test_csv_longer_than_a_block(tmp_path):
    x, y = np.arange(20_000.0).reshape(-1, 1), np.arange(20_000) % 3
    assert np.array_equal(everything(files(write_csv(tmp_path / "mine.csv", x, y, names=("a",)))), sort(x, y))


def test_silo_numbers_in_the_path(tmp_path):
    for silo in range(2):
        write_csv(tmp_path / f"silo-{silo}.csv", X + silo, Y)
    task = files(tmp_path / "silo-{silo}.csv")
    assert np.array_equal(everything(task, 1), sort(X + 1, Y))
    assert np.array_equal(everything(task, 0), sort(X, Y))


def test_npz_with_another_name_for_labels(tmp_path):
    np.savez(tmp_path / "mine.npz", x=X, y=np.zeros(40), grade=Y.reshape(-1, 1))
    assert np.array_equal(everything(files(tmp_path / "mine.npz", {"target": "grade"})), sort(X, Y))


@pytest.mark.parametrize("shape", [(40, 8, 6), (40, 1, 8, 6)])
def test_npz_images(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    task = files(write_npz(tmp_path / "mine.npz", images, Y), model="cnn")
    assert np.array_equal(everything(task), sort(images / np.float32(255), Y))
    assert task.model()(task.data(0, 1).train.tensors[0][:8]).shape == (8, 3)
    deep = files(write_npz(tmp_path / "deep.npz", images.astype(np.uint16), Y), model="cnn")
    assert np.array_equal(everything(deep), sort(images, Y))


def test_parquet_types(tmp_path):
    columns = {
        "flag": [True, False, True, False],
        "count": pa.array([1, 2, 3, 4], pa.int16()),
        "exact": pa.array([1, 2, 3, 4], pa.decimal128(5, 2)),
        "label": pa.array(["a", "b", "a", "b"]).dictionary_encode(),
    }
    parquet.write_table(pa.table(columns), tmp_path / "mine.parquet")
    rows = everything(files(tmp_path / "mine.parquet", labels=["a", "b"]))
    assert (
        rows.tolist() == sort(np.array([[1, 1, 1], [2, 2, 0], [3, 3, 1], [4, 4, 0]]), [0, 1, 0, 1]).tolist()
    )


def draw_images(folder, size=(12, 10), mode="L"):
    """Four images a class, each of one grey, and what the grey is."""
    greys = {}
    for label in WORDS:
        (folder / label).mkdir(parents=True)
        for k in range(4):
            grey = int(np.random.default_rng([k, len(label)]).integers(1, 250))
            array = np.full(size[::-1], grey, dtype=np.uint8)
            Image.fromarray(array).convert(mode).save(folder / label / f"{k}.png")
            greys[label, k] = grey
    return greys


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P"])
def test_image_folders(tmp_path, mode):
    greys = draw_images(tmp_path / "mine", mode=mode)
    (tmp_path / "mine" / ".DS_Store").write_text("")
    (tmp_path / "mine" / "benign" / "notes.txt").write_text("")
    (tmp_path / "mine" / "benign" / "._0.png").write_text("what macOS leaves on other disks")
    task = files(tmp_path / "mine", labels=WORDS.tolist(), model="cnn", image_size=[8, 6], channels=1)
    rows = everything(task)
    if mode == "1":
        assert set(np.unique(rows[:, :-1])) <= {0.0, 1.0} or rows[:, :-1].max() <= 1
    else:
        expected = np.array([[greys[label, k] / 255] * 48 for label in WORDS for k in range(4)])
        assert np.allclose(rows, sort(expected, np.repeat([0, 1, 2], 4)), atol=0.5 / 255)
    assert task.data(0, 1).train.tensors[0].shape[1:] == (1, 8, 6)
    assert task.model()(task.data(0, 1).train.tensors[0][:2]).shape == (2, 3)


def test_sixteen_bit_images_keep_their_depth_and_their_orientation(tmp_path):
    (tmp_path / "0").mkdir()
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "0" / "ramp.png")
    samples = read(Source(tmp_path, 0), OPTIONS)
    assert np.allclose(samples.features[0, 0], ramp / 65535, atol=1e-6)
    assert samples.labels.tolist() == [0]


def test_an_image_is_resized_as_pillow_does(tmp_path):
    (tmp_path / "0").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "0" / "noise.png")
    resized = np.asarray(Image.fromarray(noise).resize((8, 8), Image.Resampling.BILINEAR))
    assert np.abs(read(Source(tmp_path, 0), OPTIONS).features[0, 0] * 255 - resized).max() < 1


def numbers(labels, task):
    classes, problems = encode(labels, task, "label column", "row", range(len(labels)))
    assert not problems
    return classes.tolist()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=30),
    st.sampled_from(["i8", "f4", "U", "O"]),
    st.booleans(),
)
def test_integer_labels_in_every_type_mean_the_same(labels, kind, padded):
    array = np.array(labels, dtype="int64" if kind == "O" else kind)
    if kind == "O":
        array = np.array([f" {label}.0 " if padded else str(label) for label in labels], dtype=object)
    task = parse({"task": {"classes": 12}}).task
    assert numbers(array, task) == labels


def test_labels_that_are_words_for_numbers_and_truth_values():
    yes_no = parse({"task": {"labels": ["10", "7"]}}).task
    assert numbers(np.array([7, 10, 7]), yes_no) == [1, 0, 1]
    assert numbers(np.array([True, False]), parse({"task": {"classes": 2}}).task) == [1, 0]


def test_labels_that_old_engines_write_as_bytes():
    words = parse({"task": {"labels": ["benign", "größer"]}}).task
    assert numbers(np.array(["größer".encode(), b"benign"]), words) == [1, 0]


def test_the_model_is_as_wide_as_the_data_so_the_data_comes_first(tmp_path):
    task = files(write_csv(tmp_path / "mine.csv", X, Y))
    with pytest.raises(ConfigError, match=r"call data\(silo, silos\) before model\(\)"):
        task.model()
    task.data(0, 1)
    assert task.model()[1].in_features == 3


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"path": ""}, "data.path is empty and task.name = 'files' needs it"),
        ({"classes": None}, r"needs task.classes .* or task.labels .*: set one"),
        (
            {"classes": 2, "labels": ["a", "b", "c"]},
            "task.classes = 2 contradicts the 3 names in task.labels",
        ),
        ({"labels": ["a", "a"]}, "must name at least two classes, each once"),
        ({"labels": ["a"]}, "must name at least two classes, each once"),
        ({"image_size": [8]}, r"task.image_size = \[8\] is not \[height, width\]"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_before_data_is_read(keys, sentence):
    path = keys.pop("path", "nowhere.csv")
    task = {
        key: value for key, value in {"name": "files", "classes": None, **keys}.items() if value is not None
    }
    if "image_size" in task:
        task["classes"] = 2
    with pytest.raises(ConfigError, match=sentence):
        build(parse({"task": task, "data": {"path": path}}))


def test_a_cnn_for_a_table_or_tiny_images_is_refused(tmp_path):
    table = files(write_csv(tmp_path / "mine.csv", X, Y), model="cnn")
    table.data(0, 1)
    with pytest.raises(ConfigError, match=r"task.model = 'cnn' needs images.*3 numbers"):
        table.model()
    tiny = files(write_npz(tmp_path / "mine.npz", np.zeros((40, 3, 9)), Y), model="cnn")
    tiny.data(0, 1)
    with pytest.raises(ConfigError, match=r"at least 4 by 4 pixels, and these have 3 by 9"):
        tiny.model()


@pytest.mark.parametrize(("module", "package"), [("pyarrow.parquet", "pyarrow"), ("PIL.Image", "pillow")])
def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, module, package):
    path = write_parquet(tmp_path / "mine.parquet", X, Y) if package == "pyarrow" else tmp_path
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"needs {package}, .*pip install 'silofl\[files\]'"):
        files(path).data(0, 1)


def test_a_pickle_is_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    np.savez(tmp_path / "mine.npz", x=np.array([Bomb()], dtype=object), y=Y)
    with pytest.raises(DataError, match=r"holds Python objects, which are never loaded"):
        files(tmp_path / "mine.npz").data(0, 1)
