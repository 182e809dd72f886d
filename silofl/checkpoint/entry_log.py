"""Write-ahead log: JSON lines of one run, each on disk before what it tells of happens.

The first line tells which run the entries below it are of; those of another run say nothing of this one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from silofl import private_files
from silofl.checkpoint.atomic_files import storage, sync_directory, write_bytes
from silofl.errors import CheckpointError, MismatchError

Json = dict[str, Any]


class EntryLog:
    """One silo's file of entries of one run; appended and flushed to disk one by one.

    Args:
        path: of the file, in a folder of the silo's own in its run directory.
        run: the run's id.
        format_number: of the entries; a file of another one is refused.
    """

    def __init__(self, path: Path, run: str, format_number: int) -> None:
        self.path, self._run, self._format = path, run, format_number
        self._head = _line({"format": format_number, "run": run})

    @property
    def exists(self) -> bool:
        """Whether this silo has a log already."""
        return self.path.exists()

    def append(self, entry: Json) -> None:
        """Have an entry on disk when this returns. StorageError where that fails."""
        with storage(self.path):
            new = not self.exists
            if new:
                self._make_folder()
            with private_files.append(self.path) as file:
                file.write((b"" if file.tell() else self._head) + _line(entry))
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_directory(self.path.parent)

    def entries(self) -> list[Json]:
        """All of them. A line that a kill tore is dropped: what it was to tell of did not happen.

        Raises MismatchError where they are of another run or format, CheckpointError where none can be read.
        """
        if not self.exists:
            return []
        if run_of(self.path, self._format) not in (None, self._run):
            raise MismatchError(f"{self.path} is of another run: name another run directory with --run")
        found = map(_entry, _content(self.path).splitlines())
        return [entry for entry in found if entry is not None and "run" not in entry]

    def rewrite(self, entries: Iterable[Json]) -> None:
        """Write it anew with these entries alone; made when missing. StorageError where that fails."""
        with storage(self.path):
            self._make_folder()
        write_bytes(self.path, self._head + b"".join(map(_line, entries)))

    def _make_folder(self) -> None:
        folder = self.path.parent
        folder.parent.mkdir(parents=True, exist_ok=True)
        private_files.make_folder(folder)
        sync_directory(folder.parent)


def run_of(path: Path, format_number: int) -> str | None:
    """The id of the run that a log is of; None where there is no log yet, or no whole first line of it.

    Raises MismatchError where another version of silofl wrote it, CheckpointError where it cannot be read.
    """
    if not path.exists():
        return None
    head = _entry(_content(path).partition(b"\n")[0])
    if head is None:
        return None
    if head.get("format") != format_number or not isinstance(head.get("run"), str):
        raise MismatchError(
            f"{path} is not of format {format_number}, which this silofl reads: "
            "resume the run with the version that wrote it"
        )
    return str(head["run"])


def whole_entries(path: Path) -> list[tuple[int, Json]]:
    """Entries with the numbers of their lines, from 1. A last line that is not ended was torn by a kill.

    CheckpointError where any other is no JSON object.
    """
    *lines, _ = _content(path).split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        entry = _entry(line)
        if entry is None:
            raise CheckpointError(f"{path}: line {number} is damaged")
        if "run" not in entry:
            found.append((number, entry))
    return found


def _content(path: Path) -> bytes:
    try:
        return private_files.read_bytes(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None


def _line(entry: Json) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _entry(line: bytes) -> Json | None:
    try:
        entry = json.loads(line)
    except (RecursionError, ValueError):
        return None
    return entry if isinstance(entry, dict) else None
