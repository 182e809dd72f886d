"""A line of metrics.jsonl and the round that it is of."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from silofl.report.round_metrics import RoundMetrics, silos_text

FULL = RoundMetrics(
    7,
    {"loss": 0.5, "accuracy": 0.75},
    epsilon=1.5,
    clip_norm=0.25,
    per_silo=[{"accuracy": 1.0}, {}],
    began=(0, 1, 2),
    drawn=(0, 1, 2),
    staleness={"0": 0, "2": 3},
    survivors=(0, 2),
    failed=(1,),
    rejoined=(2,),
    recovery_seconds=0.125,
    clipped_silos=1,
    encoding_error=0.0625,
    coarse_tensors={"0.weight": 2},
    lost_tensors={"0.weight": 1},
    faint_tensors={"buffers.0": 2},
    widest={"0.weight": [2]},
    density=0.25,
    bytes_sent=99,
    bytes_between_groups=33,
    seconds=2.0,
    seconds_by_phase={"train": 1.0},
    train_seconds=[1.0, None, 1.0],
)


def test_a_line_is_the_round() -> None:
    line = json.loads(json.dumps(FULL.to_json()))
    assert RoundMetrics.from_json(line) == FULL
    assert (line["loss"], line["failed"], line["rejoined"]) == (0.5, [1], [2])
    assert set(line) == {one.name for one in fields(RoundMetrics)} - {"means"} | {
        "loss",
        "accuracy",
        "metrics",
    }


def test_what_there_is_not_is_left_out() -> None:
    line = RoundMetrics(1).to_json()
    assert "epsilon" not in line
    assert "clip_norm" not in line
    assert RoundMetrics.from_json(line) == RoundMetrics(1)


def test_notices() -> None:
    assert RoundMetrics(1).notices(None) == []
    failed, clipped, coarse, faint = FULL.notices(0.5)
    assert failed == "silo 1 failed in round 7; recovered in 0.12 s"
    assert "1 silos had values beyond secure.range = 0.5" in clipped
    assert "more than 1 % of 0.weight at 2 silos" in coarse
    assert "buffers.0 changed so little at 2 silos" in faint


def test_a_range_in_which_most_values_are_lost_is_told_with_the_silo_that_asked_for_it() -> None:
    def told(lost: int, widest: dict[str, list[int]], value_range: float | None = None) -> list[str]:
        line = RoundMetrics(1, survivors=(0, 1, 2, 3), lost_tensors={"0.weight": lost}, widest=widest)
        return line.notices(value_range)

    (named,) = told(3, {"0.weight": [2]})
    assert "more than half of 0.weight at 3 of 4 silos, for silo 2 asked for so wide a range" in named
    (unknown,) = told(4, {})
    assert "at 4 of 4 silos, and no silo says that its values need so wide a range" in unknown
    assert told(1, {}) == told(3, {"0.weight": [2]}, 0.5) == []


def test_names() -> None:
    assert [silos_text(one) for one in ((3,), (0, 1), (0, 1, 4))] == [
        "silo 3",
        "silos 0 and 1",
        "silos 0, 1 and 4",
    ]


def test_the_documented_keys_are_those_of_a_line() -> None:
    text = (Path(__file__).parents[2] / "docs/failure.md").read_text().partition("## What is recorded")[2]
    documented = {key.partition(".")[0] for key in re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)}
    assert len(documented) >= 5
    assert documented <= {one.name for one in fields(RoundMetrics)}
