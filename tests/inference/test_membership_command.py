"""`silofl membership`: which records are taken for which, their losses, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from silofl.errors import DataError
from silofl.inference.loading import load
from silofl.privacy_attacks.run_members import losses_of, membership_of, samples_of_files
from tests.inference.conftest import SILOS, Run
from tests.inference.test_commands import call, refusal


def files(run: Run) -> list[Path]:
    return [run.folder / f"{silo}.csv" for silo in range(SILOS)]


def test_records_of_training_are_told_from_those_held_out(run: Run, tmp_path: Path) -> None:
    model = load(run.path)
    trained, held = samples_of_files(model, files(run))
    for silo, pair in enumerate(zip(trained, held, strict=True)):
        assert sum(map(len, pair)) == 60 + 10 * silo
    done = call("membership", run.path, *files(run), "--json", tmp_path / "found.json")
    assert done.exit_code == 0, done.exception
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["members"], found["others"]) == (sum(map(len, trained)), sum(map(len, held)))
    assert f"AUC          {found['auc']:.3f}" in done.stdout
    losses = [np.concatenate([losses_of(model, one) for one in sets]) for sets in (trained, held)]
    wins = (losses[0][:, None] < losses[1]) + (losses[0][:, None] == losses[1]) / 2
    assert found["auc"] == pytest.approx(wins.mean(), abs=1e-12)


class Squares:
    """A task whose loss is a mean, without `losses`."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return (model(batch[0]) - batch[1]).square().mean()


def test_losses_are_of_each_sample_with_and_without_the_tasks_help(run: Run) -> None:
    model = load(run.path)
    [samples, *_], _ = samples_of_files(model, files(run))
    x, y = (torch.stack(one) for one in zip(*(samples[k] for k in range(len(samples))), strict=True))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model.network(x), y, reduction="none").numpy()
    np.testing.assert_allclose(losses_of(model, samples), expected, rtol=1e-5, atol=1e-6)
    model.task = Squares()  # type: ignore[assignment]
    with torch.no_grad():
        squares = (model.network(x) - y[:, None]).square().mean(dim=1).numpy()
    found = losses_of(model, TensorDataset(x, y[:, None].float()))
    np.testing.assert_allclose(found, squares, rtol=1e-5)


def test_what_tells_nothing_is_refused(run: Run, tmp_path: Path) -> None:
    assert "which files?" in refusal("membership", run.path)
    assert "has the data" in refusal("membership", run.path, files(run)[0], "--json", files(run)[0])
    model = load(run.path)
    trained, _ = samples_of_files(model, files(run))
    with pytest.raises(DataError, match=r"\d+ records of training and 0 others.*two of each at least"):
        membership_of(model, (trained, []))
