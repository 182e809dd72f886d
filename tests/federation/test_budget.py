"""What a silo remembers of what it showed, and what it begins a round with that it takes again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl import config as configuration
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import PrivacyConfig
from silofl.errors import ConfigError
from silofl.federation.local_work import RoundStart
from silofl.federation.privacy.budget import PrivacyBudget
from silofl.federation.privacy.engine import PrivacyEngine
from silofl.federation.privacy.release_log import ReleaseLog
from silofl.privacy.releases import Release
from tests.campaigns import mostly_long
from tests.federation.test_privacy import LOCAL, federate, settings

SILOS, ROUND = (0, 1, 2), 6
ONE = Release("gaussian", 1.0, sample_rate=0.1)


def resumed(folder: Path, look: Callable[[PrivacyBudget, int], Any]) -> list[Any]:
    """What every silo sees that begins after round 5 with the logs of a folder."""

    def rank(comm: Communicator) -> Any:
        privacy = PrivacyConfig(unit="example", place="local", noise_multiplier=1.0)
        log = ReleaseLog(folder / f"silo-{comm.rank:04d}" / "privacy.jsonl", "0" * 32)
        budget = PrivacyBudget(ElasticGroup(comm), privacy, "pld", log)
        budget.price = lambda silos, number: {ONE: 1}
        budget.begin(ROUND - 1)
        return look(budget, comm.rank)

    return run_in_threads(len(SILOS), rank)


def test_what_a_lost_journal_had_stays_unknown_however_often_the_run_is_killed(tmp_path: Path) -> None:
    def show(budget: PrivacyBudget, silo: int) -> None:
        if silo != 2:  # which was killed before it had anything to show
            budget.note(ROUND, 0, f"tag of {silo}", SILOS)

    resumed(tmp_path, show)
    (tmp_path / "silo-0000/privacy.jsonl").unlink()
    for _ in range(3):  # killed again before a silo notes anything
        same = resumed(tmp_path, lambda budget, silo: budget.repeats_alone(ROUND, 0, f"tag of {silo}"))
        other = resumed(tmp_path, lambda budget, silo: budget.repeats_alone(ROUND, 0, "other values"))
        assert (same, other) == ([False, True, True], [False, False, True])


@pytest.mark.parametrize("liar", SILOS)
def test_no_silo_s_log_makes_cheaper_what_another_s_has(tmp_path: Path, liar: int) -> None:
    def show(budget: PrivacyBudget, silo: int) -> None:
        if silo == liar:
            budget.price = lambda silos, number: {Release("gaussian", 1e6): 1}
        budget.note(ROUND, 0, "tag", SILOS)

    resumed(tmp_path, show)
    honest = [1.0 < spent < 10 for spent in resumed(tmp_path, lambda budget, _: budget.epsilon())]
    assert honest == [True] * len(SILOS)


@pytest.mark.parametrize("place", mostly_long(["local", "distributed"], 1))
def test_a_round_that_is_taken_again_begins_with_what_the_optimizer_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A discarded attempt leaves nothing in it, for its noise was shown with other values."""
    privacy: dict[str, Any] = {"noise_multiplier": 1.0, "place": place, "unit": "example", "sample_rate": 0.2}
    more: dict[str, Any] = {
        "train": LOCAL["train"] | {"keep_optimizer": True},
        "strategy": {"name": "fedavg"},
    }
    if place == "distributed":
        privacy = privacy | {"unit": "silo", "sample_rate": 0.1}
    monkeypatch.setattr("silofl.federation.privacy.engine.new_nonce", lambda: bytes(16))
    monkeypatch.setattr("silofl.federation.run_trust.new_run_id", lambda comm: "0" * 32)
    keys = {"checkpoint": {"key_file": str(tmp_path / "silo-{silo}.key")}}
    fit, first = PrivacyEngine.fit, {}

    def fit_twice(self: PrivacyEngine, start: RoundStart) -> Any:
        if start.round_number == 3:  # as if a killed run had shown the round, and other values of it
            monkeypatch.setattr(PrivacyBudget, "was_begun", lambda self, number: number == 3)
            first[self._group.silo_id] = fit(self, start).contribution.vectors["update"].copy()
        return fit(self, start)

    once = federate(settings(tmp_path / "once", privacy=privacy, **more, **keys))[0]
    monkeypatch.setattr(PrivacyEngine, "fit", fit_twice)
    twice = federate(settings(tmp_path / "twice", privacy=privacy, **more, **keys))[0]
    assert len(first) == 4
    assert all(np.abs(update).max() > 0 for update in first.values())
    assert twice["model_sha256"] == once["model_sha256"]


@pytest.mark.long
def test_a_resumed_run_is_not_longer_than_its_noise_was_made_for(tmp_path: Path) -> None:
    privacy = {"unit": "example", "noise_multiplier": None, "target_epsilon": 3.0, "sample_rate": 0.2}

    def at(rounds: int) -> configuration.Config:
        return settings(tmp_path, privacy=privacy, run={"rounds": rounds, "dir": str(tmp_path / "run")})

    assert federate(at(4))[0]["epsilon"] <= 3.0
    for error in federate(at(5), resume=True):
        assert isinstance(error, ConfigError)
        assert str(error).startswith("run.rounds = 5 would spend epsilon 3.")
    assert federate(at(4), resume=True)[0]["rounds"] == 4
