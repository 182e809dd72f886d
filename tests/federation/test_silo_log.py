"""Each silo's own log: what it says, with time, level, silo and round, and no value of anybody's data."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from silofl import config as configuration
from silofl import console, silo_log
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.loop import train
from tests.conftest import Start

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?P<level>INFO|WARNING|ERROR) "
    r"silo=(?P<silo>\d+) round=(?P<round>\d+|-) (?P<text>.*)"
)
SECRET = "4711"
FAILING = f"""
from silofl.config import DataConfig, TaskConfig
from silofl.tasks.synthetic import Synthetic


class Failing(Synthetic):
    def __init__(self):
        super().__init__(TaskConfig(model="linear"), DataConfig(), 1)

    def data(self, silo, silos):
        self.silo, self.batches = silo, 0
        return super().data(silo, silos)

    def loss(self, model, batch):
        self.batches += 1
        if self.silo == 1 and self.batches > 30:
            raise ValueError("patient {SECRET} is odd")
        return super().loss(model, batch)
"""


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """No test's log goes on in the next."""
    yield
    silo_log.end()
    silo_log._of_process.clear()


def lines(path: Path, silo: int) -> list[dict[str, str]]:
    found = [LINE.fullmatch(line) for line in silo_log.log_path(path, silo).read_text().splitlines()]
    assert None not in found
    return [one.groupdict() for one in found if one]


def test_every_silo_has_a_log_of_its_own(tmp_path: Path) -> None:
    config = configuration.parse(
        {
            "run": {"dir": str(tmp_path / "run"), "display": "none", "rounds": 3},
            "task": {"name": "synthetic", "model": "linear"},
        }
    )

    def rank(comm: Communicator) -> None:
        train(config, comm=comm)

    run_in_threads(3, rank, timeout_s=60)
    for silo in range(3):
        told = lines(tmp_path / "run", silo)
        assert {one["silo"] for one in told} == {str(silo)}
        assert told[0]["text"].startswith("silofl ")
        assert f"silo {silo} of 3" in told[0]["text"]
        rounds = [one["round"] for one in told if one["text"].startswith("round over after ")]
        assert rounds == ["1", "2", "3"]
        assert told[-1]["text"] == "the run is over"
        assert silo_log.log_path(tmp_path / "run", silo).stat().st_mode & 0o777 == 0o600


@pytest.mark.long
def test_what_ended_a_run_is_in_every_log_and_no_value_of_data(start: Start, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    (tmp_path / "failing.toml").write_text(
        '[run]\nrounds = 90\n[task]\nfactory = "failing:Failing"\n[train]\nepochs = 1\nbatch_size = 16\n'
    )
    end = start(3, "train", "failing.toml", "--run", "run").wait(90)
    assert end.code == 2, end.err
    for silo in range(3):
        told = lines(tmp_path / "run", silo)
        assert told[-1]["level"] == "ERROR"
        assert "ValueError" in told[-1]["text"]
        assert told[-1]["round"] != "-"
        assert "rank 1" in told[-1]["text"]
        assert SECRET not in silo_log.log_path(tmp_path / "run", silo).read_text()
    assert end.err.count("ValueError") == 1  # the terminal is told once, as ever


def test_what_is_said_on_standard_error_is_in_the_log_and_printed_as_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    around = logging.StreamHandler()  # of a program that has set up logging
    monkeypatch.setattr(logging.getLogger(), "handlers", [around])
    console.log("before")
    silo_log.begin(tmp_path, 7, whole_process=True)
    console.log("mind\nthe gap")
    silo_log.begin_round(5)
    console.log("%s is no format", logging.ERROR)
    silo_log.end()
    console.LOGGER.info("only here")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "silofl: before\nsilofl: mind\\nthe gap\nsilofl: %s is no format\n"
    assert [(one["level"], one["round"], one["text"]) for one in lines(tmp_path, 7)] == [
        ("WARNING", "-", "mind\\nthe gap"),
        ("ERROR", "5", "%s is no format"),
        ("INFO", "5", "only here"),
    ]


def test_a_log_that_cannot_be_written_ends_nothing_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    (tmp_path / "silo-0001").mkdir()
    (tmp_path / "silo-0001" / silo_log.NAME).symlink_to(tmp_path / "other")
    for folder, silo in ((tmp_path, 1), (tmp_path / "gone", 2)):
        silo_log.begin(folder, silo, whole_process=False)
        console.log("a line")
    assert (tmp_path / "other").read_text() == ""
    assert not (tmp_path / "gone").exists()
