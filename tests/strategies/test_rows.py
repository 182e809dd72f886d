"""A strategy whose server looks at every silo's own update: a median, in a run, with a silo that dies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl import config as configuration
from silofl.errors import ConfigError
from silofl.strategies.base import State
from silofl.strategies.fedavg import FedAvg
from tests.strategies import naive
from tests.strategies.test_federated import FAULT, LR, STEPS, WITHOUT_2, deaths, federate

__all__ = ["deaths"]


def step(self: FedAvg, state: State, shared: Any, total: Any) -> State:
    """The median of each coordinate (Yin et al. 2018)."""
    shared["model"][...] += np.median(total.rows["update"], axis=0)
    return state


def reference(present: Any) -> Any:
    data, x = naive.silos(), np.zeros(naive.SIZE)
    for here in present:
        x = x + np.median([naive.descend(data[k], x, LR, STEPS) - x for k in here], axis=0)
    return x


@pytest.fixture(autouse=True)
def median(monkeypatch: pytest.MonkeyPatch) -> None:
    """The strategy fedavg, for as long as a test takes."""
    monkeypatch.setattr(FedAvg, "needs", "rows")
    monkeypatch.setattr(FedAvg, "step", step)


@pytest.mark.covering(0)
@pytest.mark.usefixtures("deaths")
@pytest.mark.parametrize("fault", [(), (FAULT,)])
def test_the_server_s_half_has_every_silo_s_slice(tmp_path: Path, fault: tuple[str, ...]) -> None:
    model = federate(tmp_path, {"name": "fedavg"}, *fault, rounds=8, protocol="plain")
    expected = reference((WITHOUT_2 if fault else naive.ALL)[:8])
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-9)


def test_rows_are_those_of_the_silos_that_were_drawn(tmp_path: Path) -> None:
    model = federate(tmp_path, {"name": "fedavg"}, rounds=12, protocol="plain", run={"silos_per_round": 3})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    drawn = [json.loads(line)["drawn"] for line in lines]
    assert len({tuple(here) for here in drawn}) == 4
    np.testing.assert_allclose(model, reference(drawn), rtol=0, atol=1e-9)


def test_a_sum_that_hides_updates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'set secure\.protocol = "plain"'):
        federate(tmp_path, {"name": "fedavg"}, rounds=1, protocol="secagg")


def test_noise_on_the_sum_alone_is_refused() -> None:
    tables = {
        "strategy": {"name": "fedavg"},
        "privacy": {"unit": "silo", "noise_multiplier": 1.0, "sample_rate": 0.1},
    }
    with pytest.raises(ConfigError, match=r'set privacy\.place = "local"'):
        configuration.parse(tables)
