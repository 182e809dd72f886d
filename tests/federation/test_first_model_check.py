"""A first model of rank 0's own making, such as one with trap weights (Boenisch et al. 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import MismatchError
from silofl.federation.loop import train
from silofl.federation.silo import Silo
from tests.federation.threads import Normalized

SILOS, TOLD = 3, "built others by the same seed"


def federate(path: Path, liar: int | None, monkeypatch: pytest.MonkeyPatch, **task: Any) -> list[Any]:
    """A run in which one silo's first model is not the one that it should have built."""
    config = configuration.parse(
        {
            "run": {"name": "first", "dir": str(path / "run"), "display": "none", "rounds": 1},
            "task": task,
            "checkpoint": {"every": 0},
        }
    )
    honest = Silo.initial

    def initial(self: Any) -> Any:
        found = honest(self)
        if self.code.silo == liar:
            found[0] += 1
        return found

    monkeypatch.setattr(Silo, "initial", initial)

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        return train(config, Normalized(), comm=comm)

    return run_in_threads(SILOS, rank, timeout_s=60)


def notices(path: Path) -> list[str]:
    return [
        line for log in sorted(path.rglob("log.txt")) for line in log.read_text().splitlines() if TOLD in line
    ]


@pytest.mark.parametrize(("liar", "others"), [(None, None), (0, "1, 2"), (2, "2")])
def test_silos_see_whether_they_built_what_the_run_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, liar: int | None, others: str | None
) -> None:
    federate(tmp_path, liar, monkeypatch)
    found = notices(tmp_path)
    if others is None:
        assert not found
    else:
        assert len(found) == SILOS, "each silo's own log has it"
        assert all(f"begins with silo 0's weights, and silo(s) {others} built others" in one for one in found)


def test_of_a_file_s_weights_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(
        {name: one.contiguous() for name, one in Normalized().model().state_dict().items()}, tmp_path / "w"
    )
    with pytest.raises(MismatchError, match=r"not that of task.weights, as silo 1 reads it"):
        federate(tmp_path, 0, monkeypatch, weights=str(tmp_path / "w"))
    monkeypatch.undo()
    assert federate(tmp_path / "honest", None, monkeypatch, weights=str(tmp_path / "w"))[0]["rounds"] == 1
