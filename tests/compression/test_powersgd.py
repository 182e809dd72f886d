"""PowerSGD in two sums a round, against NumPy: masked, resumed, and with silos lost between the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl.aggregation.factored import FactoredSum
from silofl.comm.protocol import SimulatedCrash
from silofl.compression.powersgd import PowerSGD
from silofl.errors import ConfigError
from tests.campaigns import mostly_long
from tests.compression.naive import ALL, ROUNDS, Pull, powersgd_fedavg
from tests.compression.test_federated import (
    BACK,
    FAILS,
    SILOS,
    VICTIM,
    WITHOUT,
    federate,
    model_of,
    settings,
)  # fmt: skip
from tests.federation import rejoining
from tests.federation.test_rejoining import tree_of
from tests.federation.threads import prepare, records

RANK2 = {"name": "powersgd", "rank": 2}
SECURE = {"protocol": "secagg", "bits": 32}
SUMS = [
    (1, {"protocol": "plain"}, 1e-9),
    (3, {"protocol": "plain"}, 1e-9),
    (2, SECURE, 1e-5),
    (2, {"protocol": "additive", "committee": 3, "bits": 32}, 1e-5),
]


@pytest.mark.covering(0)
@pytest.mark.parametrize(("rank", "secure", "bound"), mostly_long(SUMS, 1, 2), ids=str)
def test_factors_are_those_of_the_reference(tmp_path: Path, rank: int, secure: Any, bound: float) -> None:
    results = federate(settings(tmp_path, RANK2 | {"rank": rank}, secure))
    assert len({one["model_sha256"] for one in results}) == 1
    expected = powersgd_fedavg([ALL] * ROUNDS, rank)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=bound)


@pytest.mark.long
def test_eight_bits_are_near(tmp_path: Path) -> None:
    federate(settings(tmp_path, RANK2 | {"bits": 8}, {"protocol": "secagg"}))
    expected = powersgd_fedavg([ALL] * ROUNDS, 2)
    assert np.abs(model_of(tmp_path) - expected).max() < 1.5


@pytest.mark.covering(0)
@pytest.mark.parametrize("at", ["between", "train"])
def test_a_silo_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Between the two sums: the second stays closed, and what it would have had is in the next one."""
    prepare(monkeypatch)
    failure = {"policy": "shrink", "inject": [f"kill silo {VICTIM} round {FAILS} at train"]}
    if at == "between":
        failure["inject"] = []
        reduce, seconds = FactoredSum.reduce, FactoredSum._seconds_of

        def counted(one: Any, contribution: Any, number: int, *of: Any) -> None:
            one.number = number
            reduce(one, contribution, number, *of)

        def dying(one: Any, *of: Any) -> Any:
            if one._group.silo_id == VICTIM and one.number == FAILS:
                raise SimulatedCrash
            return seconds(one, *of)

        monkeypatch.setattr(FactoredSum, "reduce", counted)
        monkeypatch.setattr(FactoredSum, "_seconds_of", dying)
    results = federate(settings(tmp_path, RANK2, SECURE, failure=failure))
    assert [silo for silo, result in enumerate(results) if result is None] == [VICTIM]
    present = [ALL] * (FAILS - 1) + [WITHOUT] * (ROUNDS - FAILS + 1)
    assert [tuple(line["survivors"]) for line in records(tmp_path)] == present
    void = (FAILS,) if at == "between" else ()
    expected = powersgd_fedavg(present, 2, anew=(FAILS + 1,), void=void)
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-5)


def test_a_silo_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All draw the second factor anew, for it has not seen the sums that it missed."""
    prepare(monkeypatch)
    failure = {"policy": "respawn", "inject": [f"kill silo {VICTIM} round {FAILS} at train"]}
    config = settings(tmp_path, RANK2, SECURE, failure=failure)
    results = rejoining.federate(monkeypatch, config, Pull, SILOS, VICTIM, after=BACK - 1)
    assert len({result["model_sha256"] for result in results}) == 1


@pytest.mark.long
@pytest.mark.parametrize("protocol", mostly_long(["plain", "secagg"], 1))
def test_it_is_resumed_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    prepare(monkeypatch)
    faults = {"inject": [f"kill silo {silo} round 4 at train" for silo in ALL]}
    secure, killed, never = {"protocol": protocol}, tmp_path / "killed", tmp_path / "never"
    assert federate(settings(killed, RANK2, secure, 6, failure=faults)) == [None] * SILOS
    federate(settings(killed, RANK2, secure, 6), resume=True)
    federate(settings(never, RANK2, secure, 6))
    assert (model_of(killed) == model_of(never)).all()
    for silo in ALL:
        kept, other = (tree_of(run, 6, silo)["error_feedback"] for run in (killed, never))
        assert kept["common"].keys() == {"update/b"}
        assert (kept["common"]["update/b"] == other["common"]["update/b"]).all()
        assert (kept["residuals"]["update/b"] == other["residuals"]["update/b"]).all()


@pytest.mark.long
def test_a_resume_gives_the_second_factor_to_a_silo_that_was_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was lost in round 3, and the job is killed in round 7 and started again with all silos."""
    prepare(monkeypatch)
    killed = [f"kill silo {silo} round 7 at train" for silo in WITHOUT]
    failure = {"policy": "shrink", "inject": [f"kill silo {VICTIM} round 3 at train", *killed]}
    federate(settings(tmp_path, RANK2, {"protocol": "plain"}, 9, failure=failure))
    federate(settings(tmp_path, RANK2, {"protocol": "plain"}, 9, failure={"policy": "shrink"}), resume=True)
    present = [tuple(line["survivors"]) for line in records(tmp_path)]
    back = present.index(ALL, 2) + 1
    assert present == [ALL] * 2 + [WITHOUT] * (back - 3) + [ALL] * (10 - back)
    assert back > 5  # with factors of round 4 or later
    expected = powersgd_fedavg(present, 2, anew=(4,), back=(VICTIM, back, 1))
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-9)


def test_a_basis_is_orthonormal_and_columns_that_are_made_of_others_are_zero() -> None:
    codec, mean = PowerSGD(3), np.random.default_rng(0).standard_normal((40, 3))
    basis = codec.basis(mean)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(basis @ (basis.T @ mean), mean, atol=1e-12)
    mean[:, 2] = 2 * mean[:, 0] - mean[:, 1]
    assert not codec.basis(mean)[:, 2].any()
    assert not codec.basis(np.zeros((40, 3))).any()
    assert np.isfinite(codec.basis(np.full((40, 3), 1e-30))).all()


def test_a_rank_that_makes_nothing_shorter_is_refused(tmp_path: Path) -> None:
    told = r"compress\.rank = 13 makes no matrix shorter, .* 20 rows and 35 columns: set compress\.rank to 12"
    with pytest.raises(ConfigError, match=told):
        federate(settings(tmp_path, RANK2 | {"rank": 13}, SECURE))
