"""A model file is enough: columns, scaling, classes and configuration are in it, and its bits the run's."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from silofl import config as configuration
from silofl.checkpoint.atomic_files import write_arrays
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError, DataError
from silofl.federation.loop import train
from silofl.inference.evaluation import evaluate_on, held_out_of_silos, labelled_files
from silofl.inference.loading import load
from silofl.inference.model_card import ModelCard, read_card
from tests.inference.conftest import SILOS, Run, table

COLUMNS = ["age", "enzyme", "mark"]


class Frame:
    """What predictions need of a DataFrame of any library: columns by name, which iterate as the names."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.columns, self._table = list(table), table

    def __iter__(self) -> Any:
        return iter(self.columns)

    def __getitem__(self, name: str) -> Any:
        return self._table[name]


def columns(rows: np.ndarray, *names: str) -> dict[str, np.ndarray]:
    return {name: rows[:, COLUMNS.index(name)] for name in names}


def test_evaluation_of_the_loaded_model_is_the_runs_own_bit_for_bit(run: Run) -> None:
    torch.set_num_threads(1)
    files = [run.folder / f"{silo}.csv" for silo in range(SILOS)]
    model = load(run.path)
    found = evaluate_on(model, labelled_files(model, files, held_out=True))
    own = run.summary["metrics_per_silo"]
    for silo in range(SILOS):
        assert found[silo].metrics == {name: own[silo][name] for name in ("loss", "accuracy", "auc")}
    together = {name: run.summary["metrics"][name] for name in ("loss", "accuracy", "auc")}
    assert found[-1].metrics == pytest.approx(together, rel=1e-12)
    assert found[-1].samples == sum(one.samples for one in found[:-1])


def test_a_personal_model_is_the_runs_own_too(run: Run) -> None:
    torch.set_num_threads(1)
    for silo in range(SILOS):
        model = load(run.path, silo)
        (data,) = labelled_files(model, [run.folder / f"{silo}.csv"], held_out=True)
        (found,) = evaluate_on(model, [data])
        told = run.summary["metrics_per_silo"][silo]
        assert found.model == f"silo {silo}"
        assert found.metrics == {name: told[f"personal/{name}"] for name in ("loss", "accuracy", "auc")}


def test_all_ways_to_give_raw_features_give_the_same_bits(run: Run) -> None:
    model, rows = load(run.path), table(9)
    expected = model.outputs(rows[:, :3])
    shuffled = columns(rows, "mark", "age", "enzyme")
    assert np.array_equal(model.outputs(shuffled), expected)
    frame = Frame({**shuffled, "ward": ["north"] * len(rows), "name": [1] * len(rows)})
    assert np.array_equal(model.outputs(frame), expected)
    assert np.array_equal(
        model.outputs({name: column.tolist() for name, column in shuffled.items()}), expected
    )
    with torch.no_grad():
        batches = [model(torch.from_numpy(rows[k : k + 7, :3])) for k in range(0, len(rows), 7)]
    assert np.array_equal(torch.cat(batches).numpy(), expected)
    assert set(model.predict(frame)) <= {"benign", "malignant"}
    chances = model.predict_proba(frame)
    assert np.array_equal(chances, torch.from_numpy(expected).softmax(1).numpy())
    assert np.array_equal(model.predict(frame) == "malignant", chances[:, 1] > 0.5)
    assert model.outputs(rows[:0, :3]).shape == (0, 2)
    assert model.columns == ("age", "enzyme", "mark")


@pytest.mark.long
def test_a_dataframe_is_taken_by_the_names_of_its_columns(run: Run) -> None:
    pandas = pytest.importorskip("pandas")  # no part of the tests' own: scikit-learn loads it, and it threads
    model, rows = load(run.path), table(9)
    frame = pandas.DataFrame({**columns(rows, "mark", "age", "enzyme"), "ward": "north"}, index=rows[:, 0])
    assert np.array_equal(model.outputs(frame), model.outputs(rows[:, :3]))
    frame.loc[frame.index[1], "age"] = None
    with pytest.raises(DataError, match=r"column 'age' has 1 value\(s\) missing \(row 2\)"):
        model.predict(frame)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("age"), "has no column 'age', which the model takes"),
        (lambda t: t.update(AGE=t.pop("age")), "has no column 'age'"),
        (lambda t: t["mark"].__setitem__(2, np.nan), "column 'mark' has 1 value(s) missing (row 3)"),
        (
            lambda t: t.update(mark=["high"] * len(t["mark"])),
            "column 'mark' has 60 value(s) that are no numbers",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused_by_name_and_without_a_value(
    run: Run, change: Any, said: str
) -> None:
    given = columns(table(0).copy(), *COLUMNS)
    change(given)
    with pytest.raises(DataError) as refused:
        load(run.path).predict(given)
    assert said in str(refused.value)
    assert "high" not in str(refused.value)


def test_an_array_of_another_width_is_told_the_columns(run: Run) -> None:
    with pytest.raises(
        DataError, match=r"has 4 column\(s\), and the model takes 3: 'age', 'enzyme' and 'mark'"
    ):
        load(run.path).predict(table(0))


def test_the_card_has_what_is_needed_and_no_path_of_a_silo(run: Run) -> None:
    card = read_card(run.path / "model.safetensors")
    assert card.kind == "classification"
    assert card.classes == ("benign", "malignant")
    assert card.schema[0] == ("age", "numbers in years")
    assert card.preprocessing is not None
    assert [one.unit for one in card.preprocessing.columns] == ["years", "", ""]
    assert card.configuration["personal"]["name"] == "ditto"
    assert str(run.folder) not in (text := json.dumps(card.to_json()))
    assert "{silo}" not in text
    assert ModelCard.from_json(json.loads(text)) == card
    assert read_card(run.path / "silo-0002" / "personal.safetensors").silo == 2


def test_the_file_is_the_same_bytes_each_time_it_is_written(run: Run) -> None:
    data = (run.path / "model.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == run.summary["model_sha256"]
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(head["__metadata__"]) == ["format", "silofl"]
    arrays, names = {"a": np.zeros(3)}, ("format", "b", "silofl", "c", "a")
    digests = {
        write_arrays(run.folder / "again.safetensors", arrays, dict.fromkeys(names, "x"))[0] for _ in range(9)
    }
    assert len(digests) == 1


def test_one_file_is_enough(run: Run, tmp_path: Path) -> None:
    file = Path(shutil.copy(run.path / "model.safetensors", tmp_path / "other.safetensors"))
    rows = table(0)[:, :3]
    assert np.array_equal(load(file).outputs(rows), load(run.path).outputs(rows))
    with pytest.raises(ConfigError, match="is one file, which has one model"):
        load(file, silo=1)


def test_what_is_no_model_is_refused_in_a_sentence(run: Run, tmp_path: Path) -> None:
    arrays = load_file(run.path / "model.safetensors")
    plain, damaged = tmp_path / "plain.safetensors", tmp_path / "damaged.safetensors"
    save_file(arrays, plain, {"format": "pt"})
    save_file(arrays, damaged, {"silofl": "{}"})
    (tmp_path / "text.safetensors").write_text("no tensors at all")
    (tmp_path / "going").mkdir()
    (tmp_path / "going" / "config.toml").touch()
    for name, said in (
        ("plain.safetensors", "does not say what it takes"),
        ("damaged.safetensors", "damaged, or of another version"),
        ("text.safetensors", "does not say what it takes"),
        ("nothing", "there is no run or model"),
        ("going", "the run has not ended"),
    ):
        with pytest.raises(DataError, match=said):
            load(tmp_path / name)
    with pytest.raises(DataError, match="has no personal model of silo 7: there are those of silos '0', '1'"):
        load(run.path, 7)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"preprocessing": {"columns": {"0": {"scale": 1E}}}}'.replace("E", "0" * 400),
        '{"configuration": {"run": {"seed": 1E}}}'.replace("E", "0" * 40),
        '{"configuration": {"task": {"hidden": L}}}'.replace("L", str([8] * 1001)),
        '{"configuration": {"task": {"factory": "some:Thing"}}}',
    ],
    ids=["deep", "scale", "seed", "layers", "two tasks"],
)
def test_a_card_that_somebody_has_written_by_hand_is_refused_in_a_sentence(
    run: Run, tmp_path: Path, text: str
) -> None:
    def put(into: Any, told: dict[str, Any]) -> None:
        for name, value in told.items():
            key = int(name) if isinstance(into, list) else name
            if isinstance(value, dict):
                put(into[key], value)
            else:
                into[key] = value

    if text.startswith("{"):
        card = read_card(run.path / "model.safetensors").to_json()
        put(card, json.loads(text))
        text = json.dumps(card)
    save_file(load_file(run.path / "model.safetensors"), tmp_path / "model.safetensors", {"silofl": text})
    with pytest.raises(DataError, match="damaged, or of another version"):
        load(tmp_path / "model.safetensors")
    head = b"[" * 100_000
    (tmp_path / "head.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    with pytest.raises(DataError, match="does not say what it takes"):
        load(tmp_path / "head.safetensors")


def test_tensors_of_another_kind_of_numbers_are_refused(run: Run, tmp_path: Path) -> None:
    arrays, card = load_file(run.path / "model.safetensors"), read_card(run.path / "model.safetensors")
    whole = {name: values.astype(np.int64) for name, values in arrays.items()}
    save_file(whole, tmp_path / "model.safetensors", card.metadata())
    with pytest.raises(DataError, match="does not fit the model of files"):
        load(tmp_path / "model.safetensors")


def test_tensors_of_another_model_are_refused_by_name(run: Run, tmp_path: Path) -> None:
    arrays, card = load_file(run.path / "model.safetensors"), read_card(run.path / "model.safetensors")
    for change, said in (
        ({"1.weight": np.zeros((9, 3), np.float32)}, "other tensors than '1.weight'"),
        ({"5.weight": np.zeros(1)}, "other tensors than '5.weight'"),
    ):
        save_file(arrays | change, tmp_path / "m.safetensors", card.metadata())
        with pytest.raises(DataError, match=said):
            load(tmp_path / "m.safetensors")
    del arrays["3.bias"]
    save_file(arrays, tmp_path / "m.safetensors", card.metadata())
    with pytest.raises(DataError, match=r"has no '3\.bias', which stay with each silo"):
        load(tmp_path / "m.safetensors")


OWN = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Own:
    kind = "classification"
    classes = ("low", "high")
    private = ("1.*",)
    def __init__(self, width=3): self.width = width
    def model(self): return nn.Sequential(nn.Linear(2, self.width), nn.Linear(self.width, 2))
    def data(self, silo, silos):
        x = torch.randn(30, 2, generator=torch.Generator().manual_seed(silo))
        d = TensorDataset(x, (x[:, 0] > 0).long())
        return d, d
    def loss(self, model, batch): return nn.functional.cross_entropy(model(batch[0]), batch[1])
    def metrics(self, model, batch): return {}
"""


def test_a_task_of_ones_own_is_run_by_a_run_directory_and_by_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_of_loading.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    factory = "own_of_loading:Own"
    tables = {
        "run": {"dir": str(tmp_path / "run"), "display": "none", "rounds": 1},
        "task": {"factory": factory, "options": {"width": 4}},
    }
    config = configuration.parse(tables)
    summary = run_in_threads(2, lambda comm: train(config, comm=comm))[0]
    with pytest.raises(
        DataError, match=r"has no '1\.weight' and '1\.bias', which stay .*; load one by silo=K"
    ):
        load(tmp_path / "run")
    model = load(tmp_path / "run", 1)
    assert isinstance(model.network[0], nn.Linear)
    assert set(model.predict(np.eye(2))) <= {"low", "high"}
    for unlike in ([1.0, 2.0], [[1.0, 2.0, 3.0]], [[1, 2]], 3, [[1j, 2j]]):
        with pytest.raises(DataError, match="does not take samples of the shape"):
            model.predict(unlike)
    own = evaluate_on(model, held_out_of_silos(model, 2))[1]
    assert own.metrics["loss"] == pytest.approx(summary["metrics_per_silo"][1]["loss"], rel=1e-6)
    told = (tmp_path / "run" / "config.toml").read_text()
    (tmp_path / "run" / "config.toml").write_text(told.replace(factory, "other:Own"))
    with pytest.raises(ConfigError, match="a file never runs by itself"):
        load(tmp_path / "run", 1)
    file = tmp_path / "run" / "silo-0001" / "personal.safetensors"
    monkeypatch.delitem(sys.modules, "own_of_loading")
    with pytest.raises(
        ConfigError, match=r'which a file never runs by itself: name it, as by .*task="own_of_'
    ):
        load(file)
    assert "own_of_loading" not in sys.modules
    assert np.array_equal(load(file, task=factory).outputs(np.eye(2)), model.outputs(np.eye(2)))


def test_a_run_directory_from_elsewhere_runs_nothing_but_the_class_of_a_task(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    there = tmp_path / "received"
    there.mkdir()
    (there / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n" + OWN)
    card = read_card(run.path / "model.safetensors").to_json()

    def received(factory: str, options: dict[str, Any]) -> None:
        told = json.loads(json.dumps(card))
        told["task"] = told["configuration"]["task"]["factory"] = factory
        told["configuration"]["task"]["options"] = options
        save_file(
            load_file(run.path / "model.safetensors"),
            there / "model.safetensors",
            {"silofl": json.dumps(told)},
        )
        given = "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())
        (there / "config.toml").write_text(f'[task]\nfactory = "{factory}"\n[task.options]\n{given}')

    received("torch:save", {"obj": "x", "f": "ran"})
    with pytest.raises(ConfigError, match="is no class with the methods model, data, loss, metrics"):
        load(there)
    with pytest.raises(ConfigError, match="is no class with the methods"):
        load(there / "model.safetensors", task="torch:save")  # as the message has the name from the file
    received("received.evil:Own", {"width": 4})
    with pytest.raises(ConfigError, match="a file never runs by itself"):
        load(there)
    monkeypatch.chdir(there)
    received("evil:Own", {"width": 4})
    with pytest.raises(ConfigError, match="a file never runs by itself"):
        load(there)
    assert not list(tmp_path.rglob("ran"))
