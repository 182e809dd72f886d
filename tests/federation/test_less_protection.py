"""A silo that leads cannot have the others add less noise, or spend more, than their configurations say."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from silofl import config as configuration
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator, SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import ProtocolError
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.loop import train
from silofl.federation.privacy.engine import PrivacyEngine
from silofl.federation.privacy.guarantee import refuse_weaker
from silofl.privacy.ledger import Ledger
from silofl.privacy.plan import Plan
from tests.campaigns import mostly_long
from tests.federation import rejoining
from tests.federation.test_guarantee import plan
from tests.federation.test_traffic import WithoutBuffers as Plain

SILOS = 4


def settings(path: Path, rounds: int, privacy: dict[str, Any], **sections: dict[str, Any]) -> Config:
    return configuration.parse(
        {
            "run": {"name": "p", "dir": str(path / "run"), "display": "none", "rounds": rounds},
            "train": {"full_batch": True},
            "secure": {"bits": 32},
            "privacy": {"unit": "silo", "clip_norm": 1.0, **privacy},
            **sections,
            "checkpoint": {"key_file": str(path / "key-{silo}"), **sections.get("checkpoint", {})},
        }
    )


def federate(path: Path, rounds: int, *, resume: bool = False, **privacy: Any) -> list[Any]:
    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        config = settings(path, rounds, privacy)
        try:
            return train(config, Plain(), comm=comm, resume=resume)
        except Exception as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=60)


@pytest.mark.covering(1)
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


@pytest.mark.covering(0)
@pytest.mark.parametrize("told", [float("nan"), -20.0, 1e308])
@pytest.mark.parametrize(
    "own", [{"noise_multiplier": 20.0}, {"target_epsilon": 1.0}], ids=["noise", "target"]
)
def test_a_multiplier_that_is_none_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: dict[str, float], told: float
) -> None:
    monkeypatch.setattr(Plan, "noise_multiplier", lambda self: told)
    ends = federate(tmp_path, 1, place="distributed", **own)
    assert all(isinstance(end, ProtocolError) and "silo 0 hands out a noise" in str(end) for end in ends), (
        ends
    )


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


@pytest.mark.covering(0)
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


@pytest.mark.parametrize(
    ("multiplier", "norm", "refused"),
    [
        (1 - 5e-7, 1.0, ""),
        (1 - 2e-6, 1.0, "noise multiplier"),
        (2.0, 1.0, ""),
        (1.0, 1 - 5e-7, ""),
        (1.0, 1 + 5e-7, ""),
        (1.0, 1 - 2e-6, "clipping norm"),
        (1.0, 1 + 2e-6, "clipping norm"),
    ],
)
def test_a_resume_minds_what_is_more_than_last_bits(multiplier: float, norm: float, refused: str) -> None:
    """Of what others hand out, as a factor of what this silo had."""
    own = {
        "parameters": {"nonce": "", "noise_multiplier": 3.0, "clip_norm": 0.7},
        "ledger": Ledger().to_json(),
    }

    def rank(comm: Communicator) -> None:
        engine: Any = object.__new__(PrivacyEngine)
        engine._group = ElasticGroup(comm)
        engine._multiplier, engine._norm = 3.0 * multiplier, SimpleNamespace(value=0.7 * norm)
        engine.budget = SimpleNamespace(forgets=lambda ledger: False, refuse_unknown_data=lambda state: None)
        with pytest.raises(ProtocolError, match=f"another {refused} than") if refused else nullcontext():
            engine._refuse_less_than(own, own)

    run_in_threads(1, rank)


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("asked", "factor", "refused"),
    [
        ({"noise_multiplier": 2.0}, 1 - 5e-7, False),
        ({"noise_multiplier": 2.0}, 1 - 2e-6, True),
        ({"noise_multiplier": 2.0}, 1.5, False),
        ({"target_epsilon": 3.0}, 1 - 1e-8, False),
        ({"target_epsilon": 3.0}, 0.99, True),
    ],
)
def test_a_configuration_minds_what_is_more_than_last_bits(
    asked: dict[str, float], factor: float, refused: bool
) -> None:
    """A calibration may differ by that from processor to processor."""
    made = plan(**{"noise_multiplier": None, "target_epsilon": None, **asked})
    least = made.noise_multiplier()
    with pytest.raises(ProtocolError) if refused else nullcontext():
        refuse_weaker(made, least * factor, 1, 0)


def test_an_honest_resume_goes_on(tmp_path: Path) -> None:
    more = {"place": "distributed", "target_epsilon": 50.0, "clip_quantile": 0.5}
    federate(tmp_path, 4, **more)
    assert all(isinstance(end, dict) for end in federate(tmp_path, 4, resume=True, **more))


VICTIM, LAST = 2, 6


def rejoin(
    path: Path, monkeypatch: pytest.MonkeyPatch, place: str, *, every: int
) -> tuple[list[Any], list[Exception]]:
    """One silo fails in round 3 and is back for round 5, unless it stays away: summaries, and its reason."""

    def die() -> None:
        raise SimulatedCrash

    monkeypatch.setitem(FaultInjector.__init__.__kwdefaults__, "die", die)  # type: ignore[misc]
    fault = {"policy": "respawn", "inject": [f"kill silo {VICTIM} round 3 at reveal"]}
    privacy = {"place": place, "noise_multiplier": 10.0}
    config = settings(path, LAST, privacy, failure=fault, checkpoint={"every": every})
    refusals: list[Exception] = []
    ends = rejoining.federate(monkeypatch, config, Plain, SILOS, VICTIM, after=4, refusals=refusals)
    return ends, refusals


@pytest.mark.parametrize("place", mostly_long(["local", "distributed"], 1))
def test_a_silo_that_is_told_what_it_spent_rejoins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    ends, refusals = rejoin(tmp_path, monkeypatch, place, every=1)
    assert refusals == []
    assert {end["rounds"] for end in ends} == {LAST}
    assert ends[0]["survivors"] == list(range(SILOS))
    spent = ends[0]["epsilon_per_silo"]
    assert spent[VICTIM] < spent[0]  # it missed round 4


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("what", "every", "word"),
    [
        ("ledger", 1, "ledger, with less spent of this silo's data, than silo 2 has in its own checkpoint"),
        ("ledger", 0, "ledger, with less spent of this silo's data, than silo 2 has in its own release log"),
        ("noise multiplier", 1, "noise multiplier than silo 2 has in its own checkpoint"),
        ("noise multiplier", 0, "noise multiplier of 5, and silo 2 asks for more by its own privacy"),
    ],
    ids=["checkpoint", "log alone", "noise", "noise, no checkpoint"],
)
def test_a_silo_that_is_told_of_less_protection_stays_away_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, every: int, word: str
) -> None:
    honest = PrivacyEngine.rejoin_state
    monkeypatch.setattr(PrivacyEngine, "rejoin_state", lambda self: spoilt(what, honest(self)))
    ends, refusals = rejoin(tmp_path, monkeypatch, "distributed", every=every)
    (refusal,) = refusals
    assert isinstance(refusal, ProtocolError)
    assert refusal.sender == 0
    assert f"silo 0 hands out a{'' if 'of 5' in word else 'nother'} {word}" in str(refusal)
    assert ends[VICTIM] is None
    others = [end for silo, end in enumerate(ends) if silo != VICTIM]
    assert {end["rounds"] for end in others} == {LAST}
    assert others[0]["survivors"] == [0, 1, 3]
