"""The live table shows the newest rounds and leaves the closing lines behind."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from silofl.report.live_display import ROUNDS_SHOWN, LiveDisplay
from tests.report.test_loggers import metrics

PLAN = {
    "version": "0",
    "name": "demo",
    "silos": 2,
    "parameters": 3,
    "strategy": "FedAvg",
    "rounds": 20,
    "first_round": 1,
    "protocol": "plain",
    "keys": "",
    "steps": "",
    "device": "cpu",
    "personal": "",
    "participation": "",
    "clients": "",
    "pruning": "",
    "robust": "",
    "detection": "",
    "attack": "",
    "privacy": "none: nothing is promised",
    "private": False,
    "outside": "",
    "evaluates": True,
    "path": "runs/demo",
}


def test_a_run_as_a_person_sees_it() -> None:
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, force_terminal=True, width=120))
    display.begin(PLAN)
    for number in range(1, 21):
        display.round(metrics(number))
    display.notice("a silo was late")
    summary = {
        "metrics": {"loss": 0.1, "accuracy": 0.5},
        "rounds": 20,
        "seconds": 2.0,
        "models_sha256": {"model": "ab"},
        "keys": "",
        "seconds_by_phase": {"train": 1.0},
        "epsilon": None,
        "delta": None,
        "personal": "",
        "privacy": "none: nothing is promised",
        "outside": "",
    }
    display.finish(summary)
    display.close()
    text = out.getvalue()
    assert "demo, 2 silos" in text
    assert text.count("none: nothing is promised") == 2
    assert "epsilon" not in text
    assert "note: a silo was late" in text
    assert "0.250 to 0.750" in text
    assert "20/20" in text
    assert "runs/demo/model.safetensors  sha256 ab" in text
    last_table = text[text.rindex("over silos") :]
    assert last_table.count("0.250 to 0.750") == ROUNDS_SHOWN


@pytest.mark.parametrize(
    ("width", "last"), [(120, "of which"), (80, "of which"), (60, "seconds"), (40, "seconds")]
)
def test_a_round_is_one_line_of_the_terminal(width: int, last: str) -> None:
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, force_terminal=True, no_color=True, width=width))
    display.begin(PLAN)
    display.round(replace(metrics(1), means={"loss": 1.0, "accuracy": 0.5}))
    display.close()
    text = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).replace("\r", "")
    heading, row, bar = text[text.rindex("round") :].rstrip("\n").split("\n")
    assert max(len(heading), len(row), len(bar)) <= width
    assert heading.rstrip().endswith(last)
    assert ("over silos" in heading) == (width > 40)
    assert "1.0000" in row
    assert "0.5000" in row


def test_what_was_spent_has_a_column_and_is_in_the_last_words() -> None:
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, force_terminal=True, width=120))
    plan = {"version": "0", "name": "demo", "silos": 2, "parameters": 3, "strategy": "FedSGD", "rounds": 2}
    promise = "every example, epsilon 3 at delta 1e-05"
    more = {"first_round": 1, "protocol": "secagg", "keys": "K", "device": "cpu"} | {
        "personal": "Ditto, a model of each silo's own",
        "participation": "2 of 4 silos train in a round, drawn by run.seed: all know which",
        "privacy": promise,
        "private": True,
        "outside": "H",
        "evaluates": False,
    }
    display.begin(
        {
            **plan,
            **more,
            "pruning": "",
            "robust": "",
            "detection": "",
            "attack": "",
            "clients": "",
            "steps": "S",
            "path": "runs/demo",
        }
    )
    display.round(metrics(1, epsilon=1.2345))
    display.round(metrics(2))
    spent = {
        "keys": "K",
        "outside": "H",
        "personal": "Ditto, a model of each silo's own",
        "privacy": promise,
        "metrics": {"accuracy": 0.5},
        "rounds": 2,
        "epsilon": 2.5,
        "delta": 1e-5,
    }
    digests = {"model": "ab", "model-2": "cd"}
    display.finish({**spent, "seconds": 2.0, "models_sha256": digests, "seconds_by_phase": {"train": 1.0}})
    display.close()
    text = out.getvalue()
    assert f"  privacy: {promise}" in text
    assert f"  privacy  {promise}" in text
    assert "  outside: H\n" in text.replace("\r", "")
    assert "  outside  H\n" in text.replace("\r", "")
    assert "  personal: Ditto, a model of each silo's own\n" in text.replace("\r", "")
    assert "  silos: 2 of 4 silos train in a round" in text.replace("\r", "")
    assert "  model    runs/demo/model.safetensors    sha256 ab\n" in text.replace("\r", "")
    assert "  model    runs/demo/model-2.safetensors  sha256 cd\n" in text.replace("\r", "")
    assert "  personal runs/demo/silo-*/personal.safetensors" in text
    assert "  steps: S\n" in text.replace("\r", "")
    assert "  keys: K\n" in text.replace("\r", "")
    assert "  keys     K" in text
    assert "1.2345" in text
    assert "done: epsilon 2.5 at delta 1e-05, accuracy 0.5000" in text
