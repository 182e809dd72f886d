"""FetchSGD against NumPy: in the clear, masked, resumed, with silos lost and back; and what it promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl import config as configuration
from silofl.aggregation.residuals import Residuals
from silofl.compression.count_sketch import CountSketch
from silofl.errors import ConfigError, ProtocolError
from tests.campaigns import mostly_long
from tests.compression.naive import ALL, ROUNDS, D, Pull, sketched_fedavg
from tests.compression.test_family import drawn
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

KEYS = {"ratio": 0.6, "rows": 3, "kept": 0.05}
"""With which no two values are so alike that rounding decides which of them a step has."""
SKETCH = {"name": "count_sketch", "error_feedback": True, **KEYS}
SECURE, PLAIN = {"protocol": "secagg", "bits": 32}, {"protocol": "plain"}
SUMS: list[tuple[dict[str, Any], dict[str, Any], float]] = [
    (SKETCH, PLAIN, 1e-9),
    (SKETCH | {"error_feedback": False}, PLAIN, 1e-9),
    (SKETCH | {"rows": 5}, PLAIN, 1e-9),
    (SKETCH | {"rows": 1}, PLAIN, 1e-9),
    (SKETCH, SECURE, 1e-4),
    (SKETCH | {"rotation": True, "bits": 32}, SECURE, 1e-4),
    (SKETCH, {"protocol": "additive", "committee": 3, "bits": 32}, 1e-4),
]


def reference(present: Any, compress: Any, **more: Any) -> Any:
    keys = {key: compress[key] for key in KEYS}
    return sketched_fedavg(present, **keys, feedback=compress["error_feedback"], **more)


@pytest.mark.parametrize(("compress", "secure", "bound"), mostly_long(SUMS, 0), ids=str)
def test_steps_are_those_of_the_reference(tmp_path: Path, compress: Any, secure: Any, bound: float) -> None:
    results = federate(settings(tmp_path, compress, secure))
    assert len({one["model_sha256"] for one in results}) == 1
    expected = reference([ALL] * ROUNDS, compress)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=bound)


@pytest.mark.long
@pytest.mark.parametrize("at", mostly_long(["train", "collect first", "step", "allgather"], 2))
def test_a_silo_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """As the others take the step, too, which they then take once more."""
    prepare(monkeypatch)
    failure = {"policy": "shrink", "inject": [f"kill silo {VICTIM} round {FAILS} at {at}"]}
    results = federate(settings(tmp_path, SKETCH, SECURE, failure=failure))
    assert [silo for silo, result in enumerate(results) if result is None] == [VICTIM]
    present = [tuple(line["survivors"]) for line in records(tmp_path)]
    assert (VICTIM in present[FAILS - 1]) == (at in ("step", "allgather"))
    np.testing.assert_allclose(model_of(tmp_path), reference(present, SKETCH), rtol=0, atol=1e-4)


@pytest.mark.long
def test_a_silo_comes_back_and_is_given_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    failure = {"policy": "respawn", "inject": [f"kill silo {VICTIM} round {FAILS} at train"]}
    config = settings(tmp_path, SKETCH, SECURE, failure=failure)
    results = rejoining.federate(monkeypatch, config, Pull, SILOS, VICTIM, after=BACK - 1)
    assert len({result["model_sha256"] for result in results}) == 1
    present = [tuple(line["survivors"]) for line in records(tmp_path)]
    assert present == [WITHOUT if FAILS <= number < BACK else ALL for number in range(1, ROUNDS + 1)]
    expected = reference(present, SKETCH)
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-4)
    assert np.abs(expected - reference(present, SKETCH, lost=(BACK,))).max() > 1e-2


FEW_BITS = SKETCH | {"bits": 8, "rotation": True}


@pytest.mark.long
@pytest.mark.parametrize("secure", mostly_long([PLAIN, {"protocol": "secagg"}], 1), ids=str)
def test_it_is_resumed_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: Any) -> None:
    """With eight bits a sum, of which each silo keeps its own rounding errors as well."""
    prepare(monkeypatch)
    faults = {"inject": [f"kill silo {silo} round 4 at train" for silo in ALL]}
    compress = FEW_BITS if secure["protocol"] == "secagg" else SKETCH
    killed, never = tmp_path / "killed", tmp_path / "never"
    assert federate(settings(killed, compress, secure, 6, failure=faults)) == [None] * SILOS
    federate(settings(killed, compress, secure, 6), resume=True)
    federate(settings(never, compress, secure, 6))
    assert (model_of(killed) == model_of(never)).all()
    name = "update/sketch of a to b"
    for silo in ALL:
        kept, other = (tree_of(run, 6, silo)["error_feedback"] for run in (killed, never))
        assert kept["common"].keys() == {name}
        assert (kept["common"][name] == other["common"][name]).all()
        assert kept["common"][name].any()
        assert (kept["residuals"][name] == other["residuals"][name]).all()
    assert (kept["common"][name] == tree_of(killed, 6, 0)["error_feedback"]["common"][name]).all()


@pytest.mark.long
def test_a_resume_gives_what_is_left_to_a_silo_that_was_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was lost in round 3, and the job is killed in round 5 and started again with all silos."""
    prepare(monkeypatch)
    lost = [
        f"kill silo {VICTIM} round 3 at train",
        *(f"kill silo {silo} round 5 at train" for silo in WITHOUT),
    ]
    federate(settings(tmp_path, SKETCH, PLAIN, 7, failure={"policy": "shrink", "inject": lost}))
    results = federate(settings(tmp_path, SKETCH, PLAIN, 7, failure={"policy": "shrink"}), resume=True)
    assert len({result["model_sha256"] for result in results}) == 1
    present = [tuple(line["survivors"]) for line in records(tmp_path)]
    assert (present[:3], present[-2:]) == ([ALL, ALL, WITHOUT], [ALL, ALL])
    np.testing.assert_allclose(model_of(tmp_path), reference(present, SKETCH), rtol=0, atol=1e-9)


@pytest.mark.long
def test_a_silo_whose_left_sums_are_others_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    faults = {"inject": [f"kill silo {silo} round 4 at train" for silo in ALL]}
    federate(settings(tmp_path, SKETCH, PLAIN, 6, failure=faults))
    honest, loads = Residuals.load, []

    def load(left: Residuals, values: Any, common: Any) -> None:
        loads.append(None)
        changed = {name: one + (len(loads) == 1) for name, one in common.items()}
        honest(left, values, changed)

    monkeypatch.setattr(Residuals, "load", load)
    with pytest.raises(ProtocolError, match=r"silos 0 and \d differ in what earlier sums left to all"):
        federate(settings(tmp_path, SKETCH, PLAIN, 6), resume=True)


def test_a_step_leaves_less_than_it_found() -> None:
    """Sums that have told the step are 0, and the others as they were."""
    codec, rng, draw = CountSketch(ratio=0.4, rows=5, kept=0.01), np.random.default_rng(0), drawn(1)
    values = rng.standard_normal(2000)
    sums = codec.encode(values, draw)
    step = codec.decode(sums, draw, 2000)
    assert np.count_nonzero(step) == 20
    left = codec.left(sums, step, draw)
    touched = codec.encode(step, draw) != 0
    assert 0 < touched.sum() <= 5 * 20
    assert not left[touched].any()
    assert (left[~touched] == sums[~touched]).all()


def test_the_largest_of_many_silos_values_are_told() -> None:
    """Of the mean, within four standard errors: a row adds 3.4 to a value, the median of five half of it."""
    codec, rng, draw = CountSketch(ratio=0.2, rows=5, kept=0.001), np.random.default_rng(0), drawn(2)
    rows = rng.standard_normal((40, 20_000)) * 3
    common = rng.choice(20_000, 20, replace=False)
    rows[:, common] += 15
    sums = np.sum([codec.encode(row, draw) for row in rows], axis=0) / len(rows)
    step = codec.decode(sums, draw, 20_000)
    assert set(np.flatnonzero(step)) == set(common.tolist())
    np.testing.assert_allclose(step[common], rows.mean(axis=0)[common], atol=7)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"ratio": 0}, r"compress\.ratio = 0 is not allowed"),
        ({"ratio": 1.5}, r"compress\.ratio = 1\.5 is not allowed"),
        ({"rows": 4}, r"compress\.rows = 4 is not allowed: it should be 1, 3 or 5"),
        ({"kept": 0}, r"compress\.kept = 0 is not allowed"),
        ({"kept": 0.1}, r"compress\.kept = 0\.1 is more than .* = 0\.2 / 5, .* lower it to 0\.04, or raise"),
        ({"k": 10}, r"unknown key compress\.k: did you mean compress\.kept"),
    ],
)
def test_keys_that_are_wrong_are_refused_with_the_numbers(keys: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        configuration.parse({"compress": {"name": "count_sketch"} | keys})


def test_a_model_that_is_too_short_is_refused(tmp_path: Path) -> None:
    few = SKETCH | {"ratio": 0.004, "rows": 5, "kept": 0.0005}
    told = rf"compress\.ratio = 0\.004 of {D} values is less than a sum for each of compress\.rows = 5: raise"
    with pytest.raises(ConfigError, match=told):
        federate(settings(tmp_path, few, PLAIN, 1))
