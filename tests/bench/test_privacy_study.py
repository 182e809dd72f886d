"""`benchmarks/privacy_study.py`: places are treated alike, and nothing counts that was used to tune."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from silofl.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
TARGET = 3.0


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    module: Any = __import__("privacy_study")
    monkeypatch.setattr(module, "SEEDS", (0, 1))
    monkeypatch.setattr(module, "TUNING_SEEDS", (100,))
    return module


def small(study: Any) -> Any:
    return study.Study(steps=4, rates=(2.0,), local_rounds=(2,))


@pytest.mark.long
def test_every_place_ends_at_the_same_epsilon_and_an_interrupted_study_goes_on(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, cells = tmp_path / "trials.jsonl", study.cells_of(["breast_cancer"], [3], [TARGET], "iid")
    figures = study.measure(small(study), study.Trials(small(study), kept, 1, print), cells, 1)
    assert [one.cell.place for one in figures] == ["none", *study.PLACES]
    for one in figures:
        assert len(one.accuracies) == 2
        assert 0.5 < one.mean <= 1
        if one.cell.place != "none":
            assert 0.98 * TARGET < one.spent <= TARGET
    assert "federations to train" in capsys.readouterr().out
    monkeypatch.setattr(study, "run", None)
    again = study.measure(small(study), study.Trials(small(study), kept, 1, print), cells, 1)
    assert again == figures
    with pytest.raises(ConfigError, match="another study's runs"):
        study.Trials(small(study)._replace(steps=5), kept, 1, print)
    told = json.loads(study.report(small(study), figures))
    assert [cell["place"] for cell in told["cells"]] == ["none", *study.PLACES]
    assert {gap["against"] for gap in told["distributed_minus"]} == {"local", "central"}
    study.Console(width=140).print(study.table(figures))
    assert "breast_cancer" in capsys.readouterr().out


class Pretended:
    """Accuracies by formula in place of training; `asked` are the seeds that were trained."""

    def __init__(self, study: Any) -> None:
        self.study, self.asked = study, set[tuple[str, int]]()

    def run(self, trials: Any) -> list[Any]:
        out = []
        for trial in trials:
            self.asked.add((trial.cell.place, trial.seed))
            best = {"none": 1.0, "central": 2.0, "local": 4.0, "distributed": 0.0}[trial.cell.place]
            accuracy = 0.9 - abs(trial.lr - best) / 40 + trial.rounds / 1e4
            out.append(self.study.Outcome(trial, accuracy - trial.seed / 1000, 1.0))
        return out


def test_distributed_takes_what_is_best_for_central_and_tuning_seeds_do_not_count(study: Any) -> None:
    pretended, cells = Pretended(study), study.cells_of(["digits"], [4, 8], [1.0, 8.0], "iid")
    figures = study.measure(study.Study(), pretended, cells, 3)
    found = {one.cell.place: (one.lr, one.rounds) for one in figures}
    assert found == {"none": (1.0, 60), "local": (4.0, 60), "distributed": (2.0, 60), "central": (2.0, 60)}
    assert all(len(one.accuracies) == 6 for one in figures)
    counted = {(place, seed) for place in found for seed in (0, 1)}
    assert pretended.asked == counted | {(place, 100) for place in ("none", "local", "central")}
    gaps = {gap.against: gap.points for gap in study.differences(figures)}
    assert gaps == pytest.approx({"local": -5.0, "central": -5.0})


def test_of_learning_rates_that_two_seeds_do_not_tell_apart_the_smallest_is_taken(study: Any) -> None:
    cell = study.Cell("digits", 4, "iid", "local", 1.0)
    means = {(0.5, 6): 0.95, (1.0, 6): 0.955, (2.0, 6): 0.961, (2.0, 60): 0.963, (4.0, 6): 0.97}
    trials = {study.Trial(cell, lr, rounds, 0): mean for (lr, rounds), mean in means.items()}
    found = study._good(trials)
    assert (found.lr, found.rounds) == (2.0, 60)


@pytest.mark.parametrize("rounds", [6, 60])
def test_local_takes_as_many_steps_as_the_others(study: Any, rounds: int) -> None:
    cell = study.Cell("digits", 4, "iid", "local", 1.0)
    alone = study.tables(study.Study(), study.Trial(cell, 1.0, rounds, 0))
    shared = study.tables(study.Study(), study.Trial(replace(cell, place="distributed"), 1.0, 60, 0))
    assert alone["run"]["rounds"] * alone["train"]["steps"] == shared["run"]["rounds"] == 60
    del shared["privacy"]["colluding"]  # of which local noise knows nothing
    assert alone["privacy"] == shared["privacy"] | {"place": "local"}


@pytest.mark.long
def test_a_plot_has_a_line_a_place_and_its_library_is_optional(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = study.cells_of(["digits"], [4], [1.0, 8.0], "iid")
    figures = study.measure(study.Study(), Pretended(study), cells, 1)
    pytest.importorskip("matplotlib")
    study.plot(figures, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size > 1000
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as end:
        study.plot(figures, tmp_path / "none.svg")
    assert end.value.code == 2
    assert "is not installed here: pip install" in capsys.readouterr().err


def test_a_learning_rate_that_diverges_is_not_chosen(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*anything: Any, **more: Any) -> Any:
        raise study.TrainingError("not finite")

    monkeypatch.setattr(study, "run_in_threads", diverge)
    cell = study.Cell("digits", 4, "iid", "none", None)
    assert study.run(study.Study(), study.Trial(cell, 1e9, 2, 0)).accuracy == 0.0
