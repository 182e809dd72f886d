"""Names that may be values of the data are told to their own silo, and to no other rank or terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import DataError, SiloflError
from silofl.federation.dry_run import dry_run
from silofl.federation.loop import train
from silofl.federation.own_log import own_log_path
from tests.tasks.refused import stop_reason

SECRET = "Miller"
GOOD = "age,b,label\n" + "1,2,0\n1,3,1\n" * 5


def images(folder: Path) -> Path:
    (folder / "0").mkdir(parents=True)
    (folder / "0" / f"{SECRET}.png").write_bytes(b"")
    return folder


def parts(folder: Path) -> Path:
    path = folder / "mine.csv"
    (path / f"ward={SECRET}").mkdir(parents=True)
    (path / f"ward={SECRET}" / "part-0.csv").write_text(GOOD + "x,2,0\n")
    return path


def headless(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.csv"
    path.write_text(f"{SECRET},smoker,yes\n" * 3)
    return path


def repeated(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.csv"
    path.write_text(f"{SECRET},{SECRET},yes\n" * 3)
    return path


MAKERS = [images, parts, headless, repeated]


@pytest.mark.parametrize("make", MAKERS)
def test_a_sentence_has_no_name_that_may_be_a_value(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    assert SECRET not in stop_reason(make(tmp_path / "data"))


def settings(folder: Path, path: str) -> Any:
    return configuration.parse(
        {
            "run": {"dir": str(folder / "run"), "display": "none", "rounds": 1},
            "task": {"name": "files", "classes": 2, "model": "linear"},
            "data": {"path": path},
        }
    )


@pytest.mark.parametrize("make", [parts, headless])
def test_the_silo_finds_the_names_in_its_own_log_and_check_tells_them(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path / "data-1")
    for silo in (0, 2):
        other = tmp_path / f"data-{silo}" / path.name
        other.parent.mkdir(exist_ok=True)
        other.write_text(GOOD)
    given = str(path).replace("data-1", "data-{silo}")
    config = settings(tmp_path, given)

    def rank(comm: Communicator) -> Any:
        try:
            return train(config, comm=comm)
        except SiloflError as error:
            return error

    ends = run_in_threads(3, rank, timeout_s=60)
    for end in ends:
        assert isinstance(end, DataError)
        assert SECRET not in str(end)
        assert "for silo 1 alone" in str(end)
    logs = [own_log_path(tmp_path / "run", silo) for silo in range(3)]
    assert [log.exists() for log in logs] == [False, True, False]
    assert SECRET in logs[1].read_text()
    with pytest.raises(DataError, match=SECRET):
        dry_run(config, 3)
