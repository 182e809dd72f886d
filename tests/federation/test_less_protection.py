"""A silo that leads cannot have the others add less noise, or spend more, than their configurations say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import ProtocolError
from silofl.federation.loop import train
from silofl.federation.privacy.engine import PrivacyEngine
from silofl.privacy.ledger import Ledger
from silofl.privacy.plan import Plan
from tests.federation.test_traffic import WithoutBuffers as Plain

SILOS = 4


def federate(path: Path, rounds: int, *, resume: bool = False, **privacy: Any) -> list[Any]:
    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        config = configuration.parse(
            {
                "run": {"name": "p", "dir": str(path / "run"), "display": "none", "rounds": rounds},
                "train": {"full_batch": True},
                "secure": {"bits": 32},
                "checkpoint": {"key_file": str(path / "key-{silo}")},
                "privacy": {"unit": "silo", "clip_norm": 1.0, **privacy},
            }
        )
        try:
            return train(config, Plain(), comm=comm, resume=resume)
        except Exception as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=60)


@pytest.mark.parametrize("place", ["local", "distributed"])
@pytest.mark.parametrize(
    ("own", "word"),
    [
        ({"noise_multiplier": 20.0}, "its own privacy.noise_multiplier = 20"),
        ({"target_epsilon": 1.0}, "its own privacy.target_epsilon = 1"),
    ],
)
def test_a_smaller_multiplier_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, own: dict[str, float], word: str
) -> None:
    honest = federate(tmp_path / "honest", 1, place=place, **own)
    assert all(isinstance(end, dict) for end in honest)
    monkeypatch.setattr(Plan, "noise_multiplier", lambda self: 0.02)  # asked of the leading rank alone
    ends = federate(tmp_path / "lie", 1, place=place, **own)
    assert all(isinstance(end, ProtocolError) for end in ends)
    assert all("silo 0 hands out a noise multiplier of 0.02" in str(end) and word in str(end) for end in ends)


def spoilt(what: str, state: dict[str, Any]) -> dict[str, Any]:
    """What a lying silo hands out in place of its own state."""
    told: dict[str, Any] = json.loads(json.dumps(state))
    if what == "ledger":
        told["ledger"] = Ledger().to_json()
    elif what == "noise multiplier":
        told["parameters"]["noise_multiplier"] /= 2
    else:
        told["parameters"]["clip_norm"] *= 3
    return told


@pytest.mark.parametrize("what", ["ledger", "noise multiplier", "clipping norm"])
def test_a_resume_with_less_protection_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    more = {"place": "local", "noise_multiplier": 10.0, "max_epsilon": 5.0}
    federate(tmp_path, 2, **more)
    honest = PrivacyEngine.restore

    def restore(self: Any, state: Any, *, member: bool) -> Any:
        return honest(self, spoilt(what, state) if self._group.silo_id == 0 else state, member=member)

    monkeypatch.setattr(PrivacyEngine, "restore", restore)
    ends = federate(tmp_path, 4, resume=True, **more)
    assert all(isinstance(end, ProtocolError) for end in ends)
    assert all(f"silo 0 hands out another {what}" in str(end) for end in ends)


def test_an_honest_resume_goes_on(tmp_path: Path) -> None:
    more = {"place": "distributed", "target_epsilon": 50.0, "clip_quantile": 0.5}
    federate(tmp_path, 4, **more)
    assert all(isinstance(end, dict) for end in federate(tmp_path, 4, resume=True, **more))
