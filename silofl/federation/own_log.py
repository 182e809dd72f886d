"""What a silo alone may read of its own data and training: `silo-0002/own.log` in its run directory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

from silofl import private_files
from silofl.config import Config
from silofl.console import data_told_to

NAME = "own.log"


def own_log_path(path: Path, silo: int) -> Path:
    """Where in its run directory a silo's log lies."""
    return path / f"silo-{silo:04d}" / NAME


def note(path: Path, silo: int, text: str) -> None:
    """Append a line, with the time, to a file that its owner alone may read.

    A line that cannot be written is lost: what is noted stops no run, for that would tell it to all.
    """
    file = own_log_path(path, silo)
    with suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
        private_files.make_folder(file.parent)
        with private_files.append(file) as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z {text}\n".encode(errors="backslashreplace"))


def notices_kept(config: Config, path: Path | None, silo: int) -> AbstractContextManager[None]:
    """While a silo's data is read: under [privacy] what is noticed of it goes to its own log alone.

    `path` is its run directory; None where it is not known, because all was said when the run began.
    """
    if config.privacy.unit == "none":
        return nullcontext()
    return data_told_to(lambda text: None if path is None else note(path, silo, text))
