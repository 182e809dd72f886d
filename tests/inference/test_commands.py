"""`silofl predict`, `evaluate` and `export`: files in, tables out, bad input in one sentence."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import silofl
from silofl.cli import app
from silofl.errors import SiloflError
from silofl.inference.loading import load
from tests.inference.conftest import SILOS, Run, table

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def refusal(*arguments: object) -> str:
    error = call(*arguments).exception
    assert isinstance(error, SiloflError)
    assert error.exit_code == 2
    return str(error)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_predictions_keep_the_order_and_the_identifier(run: Run, tmp_path: Path) -> None:
    rows = table(9)
    text = "mark;enzyme;patient;age\n"
    text += "".join(f"{c!r};{b!r};p{k};{a!r}\n" for k, (a, b, c, _) in enumerate(rows.tolist())).replace(
        ".", ","
    )
    (tmp_path / "new.csv").write_text(text)
    out = tmp_path / "out.csv"
    done = call("predict", run.path, tmp_path / "new.csv", "-o", out, "--id", "patient", "--decimal", ",")
    assert done.exit_code == 0, done.exception
    found, model = rows_of(out.read_text()), load(run.path)
    assert [row["patient"] for row in found] == [f"p{k}" for k in range(len(rows))]
    assert [row["prediction"] for row in found] == model.predict(rows[:, :3]).tolist()
    chances = np.array([row["probability malignant"] for row in found], np.float32)
    assert np.array_equal(chances, model.predict_proba(rows[:, :3])[:, 1])
    assert out.stat().st_mode & 0o077 == 0  # of persons


def test_a_file_without_a_sample_has_no_predictions(run: Run, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("age,enzyme,mark\n")
    done = call("predict", run.path, tmp_path / "new.csv")
    assert done.exit_code == 0, done.exception
    assert done.stdout == "line,prediction,probability benign,probability malignant\n"


def test_a_spreadsheet_computes_with_no_text_of_predictions(run: Run, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(
        "=patient,age,enzyme,mark\n=cmd|1,1,2,3\n-5,1,2,3\n+p,1,2,3\n@a,1,2,3\n"
    )
    done = call("predict", run.path, tmp_path / "new.csv", "--id", "=patient")
    found = [row["'=patient"] for row in rows_of(done.stdout)]
    assert found == ["'=cmd|1", "-5", "'+p", "'@a"]


def test_no_output_takes_the_place_of_the_data_or_of_a_device(run: Run, tmp_path: Path) -> None:
    new, pipe = tmp_path / "new.csv", tmp_path / "pipe"
    new.write_text("age,enzyme,mark\n1,2,3\n")
    (tmp_path / "link.csv").symlink_to(new)
    os.mkfifo(pipe)
    assert "has the data, which would be lost" in refusal("predict", run.path, new, "-o", new)
    assert "has the data" in refusal("predict", run.path, tmp_path / "link.csv", "-o", new)
    assert "has the data" in refusal("evaluate", run.path, new, "--json", new)
    for other in (pipe, tmp_path, "", tmp_path / "link.csv"):
        assert "is no file" in refusal("predict", run.path, new, "-o", other)
    assert new.read_text() == "age,enzyme,mark\n1,2,3\n"
    assert pipe.is_fifo()


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_other_kinds_of_files_are_predicted_too(run: Run, tmp_path: Path, kind: str) -> None:
    rows, names = table(0), ["age", "enzyme", "mark"]
    path = tmp_path / f"new.{kind}"
    if kind == "npz":
        np.savez(
            path, x=rows[:, [2, 0, 1]], columns=np.array(["mark", "age", "enzyme"]), patient=np.arange(60)
        )
    else:
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(
            arrow.table({**dict(zip(names, rows[:, :3].T, strict=True)), "patient": range(len(rows))}), path
        )
    found = rows_of(call("predict", run.path, path, "--id", "patient").stdout)
    assert [row["prediction"] for row in found] == load(run.path).predict(rows[:, :3]).tolist()
    assert [row["patient"] for row in found] == list(map(str, range(60)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("age,mark\n1,2\n", "has no column 'enzyme', which the model takes"),
        ("age,enzyme,mark\n1,2,3\n\n4,x7,6\n", "column 'enzyme' has 1 value(s) that are no numbers (line 4)"),
        ("age,enzyme,mark\n1,2\n", "1 line(s) with another number of cells than its header (line 2)"),
        ("age,enzyme,mark,mark\n1,2,3,4\n", "several columns 'mark'"),
        ('age,enzyme,mark\n1,"2"3,4\n', "cannot be read, it is damaged"),
        ("", "is empty"),
    ],
)
def test_new_data_that_do_not_fit_are_refused_without_a_value(
    run: Run, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "new.csv").write_text(text)
    told = refusal("predict", run.path, tmp_path / "new.csv")
    assert said in told
    assert "x7" not in told


def test_other_mistakes_are_told_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("age,enzyme,mark\n1,2,3\n")
    new = tmp_path / "new.csv"
    assert "there is no column 'patient'" in refusal("predict", run.path, new, "--id", "patient")
    assert "there is no folder" in refusal("predict", run.path, new, "-o", tmp_path / "a" / "b.csv")
    assert "neither . nor ," in refusal("predict", run.path, new, "--decimal", ";")
    assert "does not end in .onnx" in refusal("export", run.path, tmp_path / "m.pt")
    assert "which files?" in refusal("evaluate", run.path)
    assert "leave one of them out" in refusal("evaluate", run.path, new, "--cross-site", "--silo", 1)
    (tmp_path / "more.csv").write_text("age,enzyme,mark,ward,label\n1,2,3,4,benign\n5,6,7,8,malignant\n")
    told = refusal("evaluate", run.path, tmp_path / "more.csv")
    assert "has 'ward', which the model does not take" in told


def test_a_cross_site_table_has_each_model_on_each_file(run: Run, tmp_path: Path) -> None:
    files = [run.folder / f"{silo}.csv" for silo in range(SILOS)]
    done = call("evaluate", run.path, *files, "--cross-site", "--json", tmp_path / "found.json")
    assert done.exit_code == 0, done.exception
    found = {(row["model"], row["data"]): row for row in json.loads((tmp_path / "found.json").read_text())}
    assert json.loads((run.path / "cross-site.json").read_text()) == list(found.values())  # for a report
    models = ["shared", *(f"silo {silo}" for silo in range(SILOS))]
    assert list(dict.fromkeys(model for model, _ in found)) == models
    for model in models:
        each = [found[model, str(file)] for file in files]
        whole = found[model, "together"]
        samples = sum(row["samples"] for row in each)
        assert whole["samples"] == samples == 60 + 70 + 80
        mean = sum(row["metrics"]["accuracy"] * row["samples"] for row in each) / samples
        assert whole["metrics"]["accuracy"] == pytest.approx(mean)
        assert f"{whole['metrics']['accuracy']:.4f}" in done.stdout
    first = load(run.path, 1)
    rows = table(0)
    right = first.predict(rows[:, :3]) == np.where(rows[:, 3] > 0, "malignant", "benign")
    assert found["silo 1", str(files[0])]["metrics"]["accuracy"] == pytest.approx(right.mean())


def test_a_folder_of_images_is_predicted_as_it_was_trained_on(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for silo in range(2):
        for label, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / f"{silo}" / label
            folder.mkdir(parents=True)
            for k in range(8):
                pixels = rng.integers(level - 30, level + 30, (9, 9)).astype(np.uint8)
                image.fromarray(pixels).save(folder / f"{k}.png")
    tables = {
        "run": {"dir": str(tmp_path / "run"), "display": "none", "rounds": 2},
        "task": {"name": "files", "labels": ["dark", "light"], "image_size": [6, 6]},
        "data": {"path": str(tmp_path / "{silo}"), "center": {"image": 0.5}, "scale": {"image": 0.3}},
    }
    silofl.simulate(tables, silos=2)
    done = call("predict", tmp_path / "run", tmp_path / "0")
    assert done.exit_code == 0, done.exception
    found = rows_of(done.stdout)
    assert [row["image"] for row in found] == [
        f"{label}/{k}.png" for label in ("dark", "light") for k in range(8)
    ]
    assert np.mean([row["prediction"] == row["image"].split("/")[0] for row in found]) > 0.9
    read = call("evaluate", tmp_path / "run", tmp_path / "0", "--json", tmp_path / "found.json")
    assert read.exit_code == 0, read.exception
    (told,) = json.loads((tmp_path / "found.json").read_text())
    right = np.mean([row["prediction"] == row["image"].split("/")[0] for row in found])
    assert told["metrics"]["accuracy"] == pytest.approx(right)
    (tmp_path / "0" / "dark" / "3.png").write_bytes(b"no image")
    assert "1 unreadable image(s) (number 4 by name)" in refusal("predict", tmp_path / "run", tmp_path / "0")
    assert "has no images" in refusal("predict", tmp_path / "run", tmp_path / "run" / "checkpoints")


def test_the_page_on_using_a_model_is_true(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/hospitals").symlink_to(run.path)
    for silo, name in enumerate(("north", "south")):
        Path(f"{name}.csv").symlink_to(run.folder / f"{silo}.csv")
    Path("new.csv").write_text("age,enzyme,mark\n61,5e6,0.1\n")
    blocks = re.findall(r"```(\w*)\n(.*?)```", (ROOT / "docs/using-a-model.md").read_text(), re.DOTALL)
    commands = [line.split("  #")[0] for line in blocks[0][1].splitlines() if "onnx" not in line]
    assert len(commands) == 3
    for command in commands:
        done = call(*shlex.split(command)[1:])
        assert done.exit_code == 0, done.exception
    raw = np.array([[61, 5e6, 0.1]])
    frame = {"age": [61], "enzyme": [5e6], "mark": [0.1]}
    exec(blocks[1][1], {"frame": frame, "raw": raw, "torch": torch})
    assert Path("out.csv").read_text().startswith("line,prediction,probability benign,")
