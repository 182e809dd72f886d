"""What is promised before a run starts: as much as can be kept, and with what takes from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from silofl import config as configuration
from silofl.errors import ConfigError
from silofl.federation.privacy.guarantee import describe, notes, plan_for, refuse_over_budget
from silofl.federation.privacy.pipeline import refuse_unprotectable
from silofl.federation.silo import Silo
from silofl.privacy.accountant import epsilon
from silofl.privacy.plan import Plan
from tests.federation.test_privacy import Plain, federate, lines, settings


def plan(silos: int = 4, *, secure: dict[str, Any] | None = None, **privacy: Any) -> Plan:
    """Of 60 rounds on 1500 records."""
    tables = {"unit": "example", "noise_multiplier": 2.0, "sample_rate": 0.1} | privacy
    whole: dict[str, dict[str, Any]] = {"privacy": tables, "secure": {"bits": 32} | (secure or {})}
    whole |= {"run": {"rounds": 60}, "strategy": {"name": "fedsgd"}, "checkpoint": {"key_file": "key-{silo}"}}
    return plan_for(configuration.parse(whole), 2000, 1500, silos, silos)


@pytest.mark.parametrize(
    ("silos", "colluding", "secure", "advice"),
    [
        (5, 3, {"threshold": 3}, "secure.threshold is 3.*to 2 or less, or to 4"),
        (9, 6, {"threshold": 6}, "secure.threshold is 6.*to 5 or less, or to 8"),
        (4, 2, {"protocol": "additive"}, "secure.committee is 2.*to 1 or less, or to 3"),
    ],
)
def test_silos_that_open_the_sum_are_not_promised_to_learn_nothing(
    silos: int, colluding: int, secure: dict[str, Any], advice: str
) -> None:
    with pytest.raises(ConfigError, match=rf"privacy\.colluding = {colluding}.*{advice}"):
        plan(silos, colluding=colluding, secure=secure)
    plan(silos, colluding=colluding - 1, secure=secure)
    assert plan(silos, colluding=silos - 1, secure=secure).needed == 1


def test_dropouts_count_among_those_who_bring_no_noise() -> None:
    with pytest.raises(ConfigError, match=r"secure\.threshold is 4\), .*to 3 or less, or to 5,"):
        plan(7, colluding=4, dropouts=1, secure={"threshold": 4})
    assert plan(7, colluding=5, dropouts=1, secure={"threshold": 4}).needed == 1
    with pytest.raises(ConfigError, match=r"some others only\), .*to 33 or less, or to 99,"):
        plan(100, colluding=40)


def test_what_a_run_may_spend_decides_where_it_is_said_to_end() -> None:
    free, fourth = plan(), epsilon(plan().of_rounds(2.0, 4), 1e-5, "pld")
    assert "after 60 rounds" in describe(free, 2.0)
    assert "where" not in describe(plan(max_epsilon=100.0), 2.0)
    told = describe(plan(max_epsilon=fourth * 1.0001), 2.0)
    assert (
        f"epsilon {fourth:.4g} against a silo that knows its own noise, at delta 1e-05 after 4 of 60" in told
    )
    with pytest.raises(ConfigError, match="does not allow one round"):
        refuse_over_budget(plan(max_epsilon=1e-3), 2.0)


def test_what_makes_a_promise_weaker_is_said() -> None:
    assert notes(plan(), 2.0) == []
    assert "is not below one over the 1500 examples" in notes(plan(delta=1e-3), 2.0)[0]
    assert "promises nothing" in notes(plan(noise_multiplier=0.1), 0.1)[0]


def test_counts_that_alone_are_too_dear_are_named() -> None:
    counted = {"unit": "silo", "clip_quantile": 0.5, "noise_multiplier": None, "target_epsilon": 3.0}
    tables = {"privacy": counted, "run": {"rounds": 60}, "checkpoint": {"key_file": "key-{silo}"}}
    dear = plan_for(configuration.parse(tables), 2000, 1500, 4, 4)
    with pytest.raises(ConfigError, match=r"counts for privacy\.clip_quantile alone spend epsilon 9\.6"):
        dear.noise_multiplier()


class Summed(Plain):
    """Its loss is no mean over examples."""

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return super().losses(model, batch) * len(batch[1])


def test_a_loss_that_is_no_mean_is_found_before_a_run(tmp_path: Path) -> None:
    config = settings(tmp_path)
    refuse_unprotectable(Silo(config, Plain(), 0, 4, "cpu"), config.privacy)
    with pytest.raises(ConfigError, match="not what autograd finds for one example alone"):
        refuse_unprotectable(Silo(config, Summed(), 0, 4, "cpu"), config.privacy)


def test_no_bound_is_no_number(tmp_path: Path) -> None:
    """What the accountant cannot bound is left out: JSON has no infinity."""
    privacy = {"unit": "example", "noise_multiplier": 0.1, "sample_rate": 0.5}
    summary = federate(settings(tmp_path, privacy=privacy))[0]
    assert (summary["epsilon"], summary["epsilon_per_silo"], summary["delta"]) == (None, [None] * 4, 1e-5)
    assert all("epsilon" not in line for line in lines(tmp_path))
    json.loads((tmp_path / "run/summary.json").read_text(), parse_constant=pytest.fail)
