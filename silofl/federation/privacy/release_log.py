"""Sums that were about to be read, on disk before they could be: what a killed run may have shown.

The first line tells which run the entries below it are of; those of another run say nothing of this one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from silofl import private_files
from silofl.checkpoint.atomic_files import storage, sync_directory, write_bytes
from silofl.errors import MismatchError
from silofl.privacy.releases import Release

FORMAT = 2


@dataclass(frozen=True)
class Entry:
    """One sum of one round, of which this silo was a part."""

    round: int
    attempt: int
    tag: str
    """Of what this silo brought; it tells this silo alone anything."""
    silos: tuple[int, ...]
    releases: tuple[tuple[Release, int], ...]
    """What the round was, each as often as it says."""

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"releases": [[kind.to_json(), count] for kind, count in self.releases]}

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Entry:
        """The entry again."""
        releases = tuple((Release.from_json(kind), int(count)) for kind, count in table["releases"])
        return cls(**table | {"silos": tuple(table["silos"]), "releases": releases})


class ReleaseLog:
    """One silo's file of entries of one run; appended and flushed to disk one by one."""

    def __init__(self, path: Path, run: str) -> None:
        self._path, self._head = path, json.dumps({"format": FORMAT, "run": run}).encode() + b"\n"
        self._run = run

    def append(self, entry: Entry) -> None:
        """Have it on disk. StorageError where that fails: then the sum must not be read."""
        with storage(self._path), private_files.append(self._path) as file:
            file.write((b"" if file.tell() else self._head) + _line_of(entry))
            file.flush()
            os.fsync(file.fileno())

    @property
    def exists(self) -> bool:
        """Whether this silo has a log already."""
        return self._path.exists()

    def after(self, round_number: int) -> list[Entry]:
        """The entries of later rounds; a line that was torn by a kill let nothing be read, and is dropped.

        Raises MismatchError where they are of another run.
        """
        if not self._path.exists():
            return []
        if run_of_log(self._path) not in (None, self._run):
            raise MismatchError(f"{self._path} is of another run: name another run directory with --run")
        entries = map(_entry_of, private_files.read_bytes(self._path).splitlines())
        return [entry for entry in entries if entry is not None and entry.round > round_number]

    def repair(self, more: Iterable[Entry] = ()) -> None:
        """Write it anew without torn lines, and with `more` entries; made when missing."""
        keep = [*self.after(0), *more]
        with storage(self._path):
            self._path.parent.parent.mkdir(parents=True, exist_ok=True)
            private_files.make_folder(self._path.parent)
            sync_directory(self._path.parent.parent)
        write_bytes(self._path, self._head + b"".join(map(_line_of, keep)))


def log_path(path: Path, silo: int) -> Path:
    """Where in its run directory a silo's log lies."""
    return path / f"silo-{silo:04d}" / "privacy.jsonl"


def run_of_log(path: Path) -> str | None:
    """The id of the run that a log is of; None where there is no log yet, or no whole line of it.

    Raises MismatchError where another version of silofl wrote it.
    """
    if not path.exists():
        return None
    try:
        head = json.loads(private_files.read_bytes(path).partition(b"\n")[0])
    except ValueError:
        return None
    if not isinstance(head, dict) or head.get("format") != FORMAT or not isinstance(head.get("run"), str):
        raise MismatchError(
            f"{path} is not of format {FORMAT}, which this silofl reads: "
            "resume the run with the version that wrote it"
        )
    return str(head["run"])


def _line_of(entry: Entry) -> bytes:
    return json.dumps(entry.to_json()).encode() + b"\n"


def _entry_of(line: bytes) -> Entry | None:
    try:
        return Entry.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return None
