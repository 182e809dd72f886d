"""`benchmarks/gpu_check.py`, which needs a GPU: without one it says so, and its cases can be run."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from silofl import config as configuration
from silofl.config import conflicts
from silofl.federation.secure_conflicts import refuse_conflicts
from silofl.tasks.registry import build

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_check.py"


def test_it_says_in_one_sentence_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "gpu_check: torch sees no GPU here: run it where `silofl doctor` names one\n"
    )


def test_its_cases_are_of_configurations_that_are_not_refused(tmp_path: Path) -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    files = script["write_files"](tmp_path)
    for path, settings in script["CASES"].values():
        config = configuration.load(path or files, [*settings, "train.device=cuda"])
        assert not list(conflicts.found(config))
        refuse_conflicts(config)
        if path is None:
            own = config.data.model_copy(update={"path": str(tmp_path / "silo-1.npz")})
            data: Any = build(config.model_copy(update={"data": own})).data(1, 4)
            assert len(data.train) > 0
