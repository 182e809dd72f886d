"""A record, or an update, that is not finite is bounded like any other, and its own silo alone is told."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.utils.data import TensorDataset

from silofl.errors import SiloflError
from silofl.federation.own_log import NAME, note, own_log_path
from silofl.tasks.base import SiloData
from tests.federation.test_privacy import LOCAL, SILOS, Plain, federate, settings

FEDAVG = {"strategy": {"name": "fedavg", "momentum": 0.0}}


class Spoilt(Plain):
    """Silo 1 has one record whose features are `value`."""

    value = float("nan")

    def data(self, silo: int, silos: int) -> SiloData:
        data = super().data(silo, silos)
        if silo != 1:
            return data
        x, y = data.train.tensors
        x = x.clone()
        x[0] = self.value
        return SiloData(TensorDataset(x, y), data.test)


class Overflowing(Spoilt):
    """All is finite but the loss of that record."""

    value = 1e38


@pytest.mark.covering(1)
@pytest.mark.parametrize("task", [Spoilt, Overflowing])
@pytest.mark.parametrize(
    ("privacy", "more"),
    [
        ({"sample_rate": 1.0}, {}),
        ({"sample_rate": 1.0, "place": "local"}, LOCAL),
        ({"unit": "silo"}, FEDAVG),
        ({"unit": "silo", "place": "local"}, FEDAVG | {"train": {"keep_optimizer": True, "momentum": 0.9}}),
        ({"unit": "silo", "clip_quantile": 0.5}, FEDAVG),
    ],
    ids=["example", "example, local", "silo", "silo, local", "silo, followed"],
)
def test_a_record_that_is_not_finite_ends_no_run_and_is_told_to_its_own_silo(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    task: type[Plain],
    privacy: dict[str, Any],
    more: dict[str, Any],
) -> None:
    run = {"rounds": 2, "display": "plain"}
    ends = federate(settings(tmp_path, run=run, privacy=privacy, **more), task=task())
    assert not [end for end in ends if isinstance(end, SiloflError)]
    model = load_file(tmp_path / "run/model.safetensors")
    assert all(np.isfinite(values).all() for values in model.values())
    logs = [own_log_path(tmp_path / "run", silo) for silo in range(SILOS)]
    assert not any(log.exists() for silo, log in enumerate(logs) if silo != 1)
    if task is Spoilt or privacy.get("unit") != "silo":  # a large update is clipped
        own = logs[1].read_text().splitlines()
        assert len(own) == 2
        assert all("counted as zero" in line for line in own)
    told = capfd.readouterr()
    shared = "".join((tmp_path / "run" / name).read_text() for name in ("metrics.jsonl", "summary.json"))
    for text in (told.out, told.err, shared):
        assert "finite" not in text
        assert "diverged" not in text
        assert " nan" not in text.lower()


def test_a_silo_s_own_log_is_its_owner_s_alone_and_never_stops_a_run(tmp_path: Path) -> None:
    note(tmp_path, 2, "one")
    note(tmp_path, 2, "two\udcff")
    log = tmp_path / "silo-0002" / NAME
    assert [line.split("Z ")[1] for line in log.read_text().splitlines()] == ["one", "two\\udcff"]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    (tmp_path / "silo-0003").write_text("")
    note(tmp_path, 3, "lost")


def test_the_trial_and_the_first_batch_say_nothing(tmp_path: Path) -> None:
    """Before the first round, too: what is tried there is the first records."""
    torch.manual_seed(0)
    summary = federate(settings(tmp_path, run={"rounds": 1}, privacy={"sample_rate": 0.01}), task=Spoilt())[0]
    assert isinstance(summary, dict)
