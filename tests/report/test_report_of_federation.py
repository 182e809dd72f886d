"""A federation leaves what `silofl report` reads, also where a silo is lost and a logger fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from silofl.report.loggers.tensorboard import EventFiles
from silofl.report.page.html import page_of
from silofl.report.page.shared_files import read_run
from silofl.report.round_metrics import RoundMetrics
from tests.federation.threads import federate, prepare, settings
from tests.report.test_report_page import check_closed

pytestmark = pytest.mark.federations


@pytest.mark.long
def test_a_run_that_lost_a_silo_and_a_logger_has_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(monkeypatch)

    def refuse(self: EventFiles, metrics: RoundMetrics) -> None:
        raise RuntimeError("of another program")

    monkeypatch.setattr(EventFiles, "round", refuse)
    failure = {"inject": ["kill silo 1 round 2 at collect"]}
    told = federate(settings(tmp_path / "run", failure=failure, run={"display": "plain"}), 4)
    assert [one is None for one in told] == [False, True, False, False]
    assert told[0]["rounds"] == 4
    said = capsys.readouterr().out
    assert said.count("the logger tensorboard is switched off, and the run goes on: RuntimeError") == 1
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["run"]["silos"] == 4
    assert environment["versions"]["torch"]
    run = read_run(tmp_path / "run")
    assert run.silos == 4
    assert not run.remarks
    page = check_closed(page_of([run]))
    assert "silo 1 failed; the others went on after" in page.text
    assert "silo 1: 1 of 4 rounds" in page_of([run])
