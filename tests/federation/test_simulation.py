"""`silofl.simulate` and `silofl.train`: what they take and give, and that threads make a job's bits."""

from __future__ import annotations

import inspect
import json
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import silofl
from silofl.comm.threads import run_in_threads
from silofl.training import seeding
from tests.conftest import ONE_THREAD, launcher

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "federation.ipynb"


class Drawing:
    """A model with dropout, whose training takes long enough for silos to meet in it."""

    kind = "classification"
    classes = ("even", "odd")

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.5), nn.Linear(32, 2))

    def data(self, silo: int, silos: int) -> Any:
        rng = np.random.default_rng(silo)
        x = torch.from_numpy(rng.normal(size=(240, 6)).astype(np.float32))
        data = TensorDataset(x, (x[:, 0] > 0).long())
        return data, data

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Any]:
        return {"accuracy": (model(batch[0]).argmax(1) == batch[1]).float().mean()}


def tables(path: Path, rounds: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "run": {"dir": str(path), "display": "none", "rounds": rounds},
        "train": {"batch_size": 8},
        **more,
    }


def test_silos_that_draw_random_numbers_make_the_same_model_each_time(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    results = [silofl.simulate(tables(tmp_path / f"{k}"), Drawing, silos=3) for k in range(2)]
    assert results[0].summary["model_sha256"] == results[1].summary["model_sha256"]
    later = ThreadPoolExecutor(1).submit(torch.get_num_threads)  # what other threads are given
    assert later.result() == torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    with seeding.taking_turns():  # a later simulation finds the place free
        pass


@pytest.mark.long
@pytest.mark.ranks
def test_a_simulation_makes_the_bits_of_a_job(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import json, pathlib, silofl\n"
        "from tests.federation.test_simulation import Drawing, tables\n"
        f"result = silofl.train(tables(pathlib.Path({str(tmp_path / 'job')!r})), Drawing())\n"
        "print(json.dumps([result.summary['model_sha256'], len(result.history), str(result.path)]))\n"
    )
    line, env = launcher("openmpi", 3)
    env = {**env, **ONE_THREAD, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    done = subprocess.run(
        [*line, sys.executable, str(program)],
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = {tuple(json.loads(one)) for one in done.stdout.splitlines() if one.startswith("[")}
    here = silofl.simulate(tables(tmp_path / "here"), Drawing, silos=3)
    assert told == {(here.summary["model_sha256"], 2, str(tmp_path / "job"))}


def test_a_result_has_the_run(tmp_path: Path) -> None:
    result = silofl.simulate(tables(tmp_path / "run", task={"model": "linear"}), silos=2)
    assert result.path == tmp_path / "run"
    assert result.summary == json.loads((result.path / "summary.json").read_text())
    assert [line["round"] for line in result.history] == [1, 2]
    last = result.history[-1]
    assert last["accuracy"] == result.summary["accuracy"]
    assert last["silo 1 accuracy"] == result.summary["accuracy_per_silo"][1]
    assert last["silos"] == 2
    assert all(isinstance(value, (int, float)) for line in result.history for value in line.values())
    assert result.model.predict(np.zeros((3, 64))).shape == (3,)
    assert str(result).startswith("2 rounds, accuracy 0.")
    more = silofl.simulate(tables(tmp_path / "run", rounds=3, task={"model": "linear"}), silos=2, resume=True)
    assert [line["round"] for line in more.history] == [1, 2, 3]


def test_a_task_is_an_object_a_class_or_what_makes_one(tmp_path: Path) -> None:
    given = [Drawing(), Drawing, lambda: Drawing()]  # noqa: PLW0108 - a function
    results = [
        silofl.simulate(tables(tmp_path / f"{k}", rounds=1), one, silos=2) for k, one in enumerate(given)
    ]
    assert len({one.summary["model_sha256"] for one in results}) == 1
    assert set(results[0].model.predict(np.eye(6))) <= {"even", "odd"}
    with pytest.raises(silofl.ConfigError, match="a int is no task: it has no method model"):
        silofl.simulate(tables(tmp_path / "none"), 3)  # type: ignore[arg-type]


def test_train_takes_what_a_program_has(tmp_path: Path) -> None:
    def rank(comm: Any) -> silofl.Result:
        torch.set_num_threads(1)
        return silofl.train(tables(tmp_path / "run", rounds=1), Drawing(), comm=comm)

    results = run_in_threads(2, rank)
    assert results[0].summary == results[1].summary
    assert len(results[1].history) == 1
    assert isinstance(results[0].model, silofl.TrainedModel)
    with pytest.raises(silofl.ConfigError, match="a list is no configuration: give a path, a dict"):
        silofl.simulate([])  # type: ignore[arg-type]
    with pytest.raises(silofl.ConfigError, match="unknown key train"):
        silofl.simulate({"train": {"learningrate": 1}})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"failure": {"inject": ["kill silo 1 round 1 at collect"]}}, "failure.inject ends processes"),
        ({"train": {"ranks_per_silo": 2}}, "train.ranks_per_silo = 2 takes processes"),
    ],
)
def test_what_takes_processes_is_refused(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(silofl.ConfigError, match=said):
        silofl.simulate({**tables(tmp_path / "run"), **more}, silos=3)


@pytest.mark.parametrize("silos", [0, -1, 2.5, "3"])
def test_what_is_no_number_of_silos_is_refused(tmp_path: Path, silos: Any) -> None:
    with pytest.raises(silofl.ConfigError, match="is no number of silos"):
        silofl.simulate(tables(tmp_path / "run"), Drawing, silos=silos)


def test_an_error_of_a_silo_ends_all_and_is_the_one_that_is_raised(tmp_path: Path) -> None:
    class Poor(Drawing):
        def data(self, silo: int, silos: int) -> Any:
            if silo == 1:
                raise silofl.DataError("silo 1 has nothing")
            return super().data(silo, silos)

    with pytest.raises(silofl.DataError, match="silo 1 has nothing"):
        silofl.simulate(tables(tmp_path / "run"), Poor, silos=3)
    assert not [one for one in threading.enumerate() if "run_in_threads" in one.name]


def test_an_interrupt_ends_all_silos(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    config = tables(tmp_path / "run", rounds=10**6, task={"model": "linear"})
    told = tmp_path / "run" / "metrics.jsonl"

    def interrupt() -> None:
        while not (told.exists() and told.stat().st_size):
            time.sleep(0.02)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job of the background
    try:
        with pytest.raises(KeyboardInterrupt):
            silofl.simulate(config, silos=2)
    finally:
        signal.signal(signal.SIGINT, handler)
    for one in set(threading.enumerate()) - before:
        one.join(10)
        assert not one.is_alive(), one


def test_names_are_listed_and_documented_with_an_example() -> None:
    assert set(silofl.__all__) <= set(dir(silofl))
    for name in silofl.__all__:
        assert name == "__version__" or inspect.getdoc(getattr(silofl, name))
    for function in (silofl.load, silofl.simulate, silofl.train):
        assert f"silofl.{function.__name__}(" in (inspect.getdoc(function) or "")
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        silofl.trian  # noqa: B018


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text())
    return ["".join(one["source"]) for one in notebook["cells"] if one["cell_type"] == "code"]


def test_the_program_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(program, "python.md", "exec"), {})


def test_the_cells_of_the_notebook_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in cells():
        exec(compile(cell, str(NOTEBOOK), "exec"), names)
    assert names["result"].summary["accuracy"] > 0.8
    assert "Barolo" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.ranks
def test_a_kernel_executes_the_notebook_and_shows_the_table_of_rounds(tmp_path: Path) -> None:
    nbformat, client = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    client.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [one for cell in notebook.cells if cell.cell_type == "code" for one in cell.outputs]
    shown = [one for one in outputs if one.output_type == "display_data" and "text/html" in one.data]
    assert any("3/3" in one.data["text/html"] and "done: accuracy" in one.data["text/html"] for one in shown)
