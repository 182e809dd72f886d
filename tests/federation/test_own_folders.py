"""Hosts with a folder each, one of which is lost with its host: buddies give it back, or it is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Start
from tests.federation.test_lost_hosts import MEGABITS, Launch, fault, report

SHRINK = ["--set", "failure.policy=shrink"]


@pytest.fixture
def apart(hosts: Any, tmp_path: Path) -> Iterator[Any]:
    """Three hosts, each with its own folder."""
    with hosts.two_hosts(MEGABITS, 3, own=tmp_path / "disk") as found:
        yield found


def buddies(tmp_path: Path) -> list[str]:
    """Copies with buddies; keys lie where all hosts see them."""
    key_file = f"checkpoint.key_file={tmp_path}/keys/{{silo}}.key"
    return ["--set", "checkpoint.buddy=true", "--set", key_file]


def lost(both: Any) -> None:
    both.kill_host(2, for_ever=True)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", ["train", "step", "checkpoint rename"])
def test_a_lost_hosts_silos_come_back_from_their_buddies(
    apart: Any, start: Start, quick: Path, tmp_path: Path, step: str
) -> None:
    one = start(4, "train", str(quick), "--run", "one").wait(100)
    assert one.code == 0, one.err[-2000:]
    inject = fault(f"hang silo 2 round 4 at {step}")
    run = Launch(apart, tmp_path / "run", (1, 1, 2), *buddies(tmp_path), *inject)
    run.wait_for("injected fault: hang silo 2")
    end = run.finish(lost)
    report(run.path.name, end)
    assert end.code == 0, end.said
    for silo in (2, 3):
        assert f"silo {silo} got its file of round" in end.said
    assert end.summary["survivors"] == [0, 1, 2, 3]
    whole = json.loads((tmp_path / "one/summary.json").read_text())
    assert end.summary["model_sha256"] == whole["model_sha256"]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("more", [[], ["--set", "secure.protocol=plain"]], ids=["secagg", "plain"])
def test_a_lost_hosts_silo_is_left_out(apart: Any, quick: Path, tmp_path: Path, more: list[str]) -> None:
    run = Launch(apart, tmp_path / "run", (2, 1, 1), *SHRINK, *more, *fault("hang silo 3 round 4 at train"))
    run.wait_for("injected fault: hang silo 3")
    end = run.finish(lost)
    report(run.path.name, end)
    assert end.code == 0, end.said
    assert "silo 3 has lost the files of this run and is left out" in end.said
    assert end.summary["survivors"] == [0, 1, 2]
    assert end.summary["rounds"] == 6


@pytest.mark.long
@pytest.mark.timeout(900)
def test_what_was_opened_with_it_waits_for_it(apart: Any, quick: Path, tmp_path: Path) -> None:
    inject = fault("hang silo 3 round 4 at step")
    run = Launch(apart, tmp_path / "run", (2, 1, 1), *SHRINK, "--restarts", "1", *inject)
    run.wait_for("injected fault: hang silo 3")
    end = run.finish(lost)
    report(run.path.name, end)
    assert end.code == 75, end.said
    assert "without silo 3 it stays closed" in end.said


INSTITUTIONS = """
[run]
rounds = 6
display = "plain"
[task]
name = "files"
model = "linear"
classes = 2
[train]
epochs = 1
[secure]
protocol = "plain"
"""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_institution_is_left_out_with_its_host(apart: Any, tmp_path: Path) -> None:
    """Its rank runs beside a neighbour's, where its path leads to the neighbour's data, and reads nothing."""
    text = INSTITUTIONS
    for silo, address in enumerate(apart.addresses):
        rng = np.random.default_rng(silo)
        x = rng.normal(size=(100 + 20 * silo, 4))
        rows = np.column_stack([x, x.sum(1) > 0])
        path = apart.folder_of(silo) / "cohort.csv"
        np.savetxt(path, rows, "%g", ",", header="a,b,c,d,label", comments="")
        text += (
            f'[[institution]]\nname = "i{silo}"\nhost = "{address}"\ndata.path = "{apart.own}/cohort.csv"\n'
        )
    (tmp_path / "quick.toml").write_text(text)
    run = Launch(apart, tmp_path / "run", None, *SHRINK, *fault("hang silo 2 round 4 at train"))
    run.wait_for("injected fault: hang silo 2")
    end = run.finish(lost)
    report(run.path.name, end)
    assert end.code == 0, end.said
    assert "10.99.0.3 does not answer: silo 2 is to be left out" in end.said
    assert "silo 2 is named by failure.leave_out and is left out" in end.said
    assert end.summary["survivors"] == [0, 1]
    assert end.summary["rounds"] == 6
