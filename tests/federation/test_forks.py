"""Two copies of one run that go on with other values, or other silos, have noise that is independent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import SiloflError
from silofl.federation import loop
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.loop import train
from silofl.federation.privacy import clip_norm
from silofl.tasks.base import SiloData
from tests.campaigns import mostly_long
from tests.federation.test_privacy import LOCAL, SILOS, settings
from tests.federation.threads import prepare

FEATURES, CLASSES, RECORDS, CHANGED = 300, 4, 60, 8
SIZE = FEATURES * CLASSES
Floats = NDArray[np.float64]


class Records(Dataset[tuple[Tensor, Tensor]]):
    """So many that a digest of the data reads some: a change of another one goes unseen."""

    def __init__(self, silo: int, *, other: bool) -> None:
        rng = np.random.default_rng(silo)
        x = rng.standard_normal((RECORDS, FEATURES)).astype(np.float32)
        y = rng.integers(0, CLASSES, RECORDS)
        if other:
            x[CHANGED] *= -3
        self._x, self._y = torch.from_numpy(x), torch.from_numpy(y)

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._x[index], self._y[index]


class Corrected:
    """A linear classification in which some silos have corrected one record each."""

    def __init__(self, changed: tuple[int, ...]) -> None:
        self._changed = changed

    def model(self) -> nn.Module:
        linear = nn.Linear(FEATURES, CLASSES, bias=False)
        nn.init.zeros_(linear.weight)
        return linear

    def data(self, silo: int, silos: int) -> SiloData:
        records = Records(silo, other=silo in self._changed)
        return SiloData(records, records)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self.losses(model, batch).mean()

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


FEDSGD = {"strategy": {"name": "fedsgd", "momentum": 0.0}}
WAYS: dict[str, dict[str, Any]] = {
    "distributed silos": {
        "privacy": {"unit": "silo", "sample_rate": 0.1},
        "strategy": {"name": "fedavg", "momentum": 0.0},
    },
    "distributed examples": {"privacy": {"unit": "example", "sample_rate": 1.0}, **FEDSGD},
    "distributed, rotated": {"privacy": {"unit": "example", "sample_rate": 1.0, "rotate": True}, **FEDSGD},
    "distributed, counted": {
        "privacy": {
            **{"unit": "silo", "sample_rate": 0.1, "noise_multiplier": 2.0, "clip_norm": 0.02},
            **{"clip_quantile": 0.5, "quantile_noise_multiplier": 100.0},
        },
        "strategy": {"name": "fedavg", "momentum": 0.0},
    },
    "central examples": {"privacy": {"unit": "example", "sample_rate": 1.0, "place": "central"}, **FEDSGD},
    "local silos": {
        "privacy": {"unit": "silo", "sample_rate": 0.1, "place": "local"},
        "strategy": {"name": "fedavg", "momentum": 0.0},
    },
    "local examples": {"privacy": {"unit": "example", "sample_rate": 1.0, "place": "local"}, **LOCAL},
}
EACH = [way for way in WAYS if way != "distributed, counted"]
"""Updates are so much smaller than the noise on them that a difference of models is all but noise."""


def run(path: Path, folder: str, way: str, rounds: int, changed: tuple[int, ...] = ()) -> Floats:
    """The model (d,) that a run has after so many rounds; it is resumed where its folder is there."""
    sections = WAYS[way] | {"run": {"dir": str(path / folder), "rounds": rounds}}
    sections["privacy"] = {"noise_multiplier": 100.0, **sections["privacy"]}
    config, resume = settings(path, **sections), (path / folder).exists()

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        try:
            return train(config, Corrected(changed), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    results = run_in_threads(SILOS, rank, timeout_s=100)
    assert any(isinstance(one, dict) and one["rounds"] == rounds for one in results), results
    [values] = load_file(path / folder / "model.safetensors").values()
    return values.astype(np.float64).ravel()


def forks(path: Path, way: str, changed: tuple[int, ...] = (), between: Any = None) -> tuple[Floats, Floats]:
    """What a round adds to the model in each of two copies of a run; `between` is called between them."""
    before = run(path, "one", way, 1)
    shutil.copytree(path / "one", path / "two")
    first = run(path, "one", way, 2)
    if between is not None:
        between()
    return first - before, run(path, "two", way, 2, changed) - before


def refuse_shared_noise(first: Floats, second: Floats) -> None:
    """Their difference has both variances, each known to 5 standard errors, and they do not correlate."""
    assert first.std() > 0
    error = 5 * np.sqrt(2 / SIZE)
    assert (first - second).var() == pytest.approx(first.var() + second.var(), rel=error)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(SIZE)


@pytest.mark.parametrize("way", mostly_long(EACH, 1))
def test_copies_of_a_run_with_another_record_share_no_noise(tmp_path: Path, way: str) -> None:
    """Had they shared it, the difference of two models would be that record's, without any.

    One silo's is enough to have another share of every silo in a sum; a silo alone has only its own. Noise
    that a server adds is bound to its slice, which one record may leave as it was, once in many runs.
    """
    every = way.startswith(("local", "central"))
    refuse_shared_noise(*forks(tmp_path, way, tuple(range(SILOS)) if every else (1,)))


@pytest.mark.long
@pytest.mark.parametrize("way", mostly_long([way for way in EACH if way != "distributed, rotated"], 4))
def test_copies_of_a_run_with_the_same_records_are_the_same(tmp_path: Path, way: str) -> None:
    """And show nothing more than one of them."""
    first, second = forks(tmp_path, way)
    np.testing.assert_array_equal(first, second)


@pytest.mark.long
def test_copies_of_a_run_with_another_silo_missing_share_no_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their difference would be the update of that silo, with no more than its own share of the noise."""
    prepare(monkeypatch)
    faults = settings(tmp_path, failure={"inject": ["kill silo 3 round 2 at train"]}).failure.faults

    def lose() -> None:
        monkeypatch.setattr(loop, "FaultInjector", lambda comm, _, silo: FaultInjector(comm, faults, silo))

    refuse_shared_noise(*forks(tmp_path, "distributed silos", between=lose))


@pytest.mark.long
def test_a_count_of_clipped_silos_has_noise_of_its_own_for_each_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw, count = clip_norm.draw_noise, clip_norm.ClipNorm.own_count.fget  # type: ignore[attr-defined]

    def note(out: Any, *more: Any) -> None:
        draw(out, *more)
        drawn.append(int(out[0]))

    def turn() -> None:
        monkeypatch.setattr(clip_norm.ClipNorm, "own_count", property(lambda self: -count(self)))

    monkeypatch.setattr(clip_norm, "draw_noise", note)
    for between, shared in ((turn, 0), (None, SILOS)):
        drawn.clear()
        forks(tmp_path / str(shared), "distributed, counted", between=between)
        one, two = set(drawn[SILOS : 2 * SILOS]), set(drawn[2 * SILOS :])
        assert (len(one), len(one & two)) == (SILOS, shared)
