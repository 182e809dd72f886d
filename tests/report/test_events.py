"""Event files are what TensorBoard reads, and a full disk does not end a run."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from silofl.report.events import EventFiles
from silofl.report.round_metrics import RoundMetrics


def metrics(number: int, epsilon: float | None = None) -> RoundMetrics:
    return RoundMetrics(
        number,
        {"loss": 1.0 / number, "accuracy": 0.5},
        epsilon=epsilon,
        bytes_sent=10,
        seconds=0.1,
        seconds_by_phase={"train": 0.05},
        per_silo=[{"accuracy": 0.25}, {"accuracy": 0.75}],
    )


def test_tensorboard_reads_the_rounds_and_a_resume_hides_what_it_repeats(tmp_path: Path) -> None:
    first = EventFiles(tmp_path)
    first.begin({"first_round": 1})
    for number in (1, 2, 3):
        first.round(metrics(number))
    first.finish({})
    second = EventFiles(tmp_path)
    second.begin({"first_round": 3})
    second.round(metrics(3))
    second.close()
    seen = EventAccumulator(str(tmp_path / "trace")).Reload()
    assert [(e.step, round(e.value, 4)) for e in seen.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 0.3333)]
    assert seen.Scalars("silo-1/accuracy")[0].value == 0.75
    assert "seconds/train" in seen.Tags()["scalars"]


def test_a_disk_that_refuses_ends_the_events_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = EventFiles(tmp_path)

    def refuse(data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(events._records, "write", refuse)
    events.round(metrics(1))
    events.round(metrics(2))
    events.finish({})
