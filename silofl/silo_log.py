"""Each silo's own log, `silo-0002/log.txt` in its run directory, each line with time, level, silo, round.

Lines come from the logger `silofl` of Python's `logging`; `silofl.console.log` hands it what goes to standard
error, too. They are sentences that ranks tell each other or people: what may hold values of data goes to
`own.log` instead (`federation/own_log.py`). Secrets are in neither.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from silofl import private_files
from silofl.console import LOGGER, printable

NAME = "log.txt"


@dataclass
class _Place:
    """Where lines of a silo go, and what they carry."""

    run_directory: Path
    silo: int
    round: int | None = None


_OF_THREAD: ContextVar[_Place | None] = ContextVar("of_thread", default=None)
_of_process: list[_Place] = []
"""At most one: the silo that the whole process is."""


class _Files(logging.Handler):
    """Appends each line to the file of the silo that says it, which its owner alone may read."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; one that cannot be written is lost, for a log stops no run."""
        place = _place()
        if place is None:
            return
        moment = datetime.fromtimestamp(record.created, UTC)
        time = f"{moment:%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z"
        number = "-" if place.round is None else place.round
        text = printable(record.getMessage())
        line = f"{time} {record.levelname} silo={place.silo} round={number} {text}\n"
        file = log_path(place.run_directory, place.silo)
        with suppress(OSError):
            private_files.make_folder(file.parent)
            with private_files.append(file) as log:
                log.write(line.encode(errors="backslashreplace"))


def log_path(run_directory: Path, silo: int) -> Path:
    """Where in its run directory a silo's log lies."""
    return run_directory / f"silo-{silo:04d}" / NAME


def begin(run_directory: Path, silo: int, *, whole_process: bool) -> None:
    """Have what this thread says, or the whole process, go to a silo's log from here on."""
    if not any(isinstance(one, _Files) for one in LOGGER.handlers):
        LOGGER.addHandler(_Files())
    place = _Place(run_directory, silo)
    _OF_THREAD.set(place)
    if whole_process:
        _of_process[:] = [place]


def begin_round(number: int) -> None:
    """Say that what follows is of this round."""
    place = _place()
    if place is not None:
        place.round = number


def end() -> None:
    """Have what this thread says go nowhere; a whole process's lines still go to its silo's log."""
    _OF_THREAD.set(None)


def _place() -> _Place | None:
    return _OF_THREAD.get() or next(iter(_of_process), None)
