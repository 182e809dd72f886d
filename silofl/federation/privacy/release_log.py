"""Sums that were about to be read, on disk before they could be: what a killed run may have shown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from silofl import private_files
from silofl.checkpoint.atomic_files import storage, sync_directory, write_bytes
from silofl.privacy.releases import Release


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
    """One silo's file of entries; appended and flushed to disk one by one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, entry: Entry) -> None:
        """Have it on disk. StorageError where that fails: then the sum must not be read."""
        with storage(self._path), private_files.append(self._path) as file:
            file.write(_line_of(entry))
            file.flush()
            os.fsync(file.fileno())

    @property
    def exists(self) -> bool:
        """Whether this silo has a log already."""
        return self._path.exists()

    def after(self, round_number: int) -> list[Entry]:
        """The entries of later rounds; a line that was torn by a kill let nothing be read, and is dropped."""
        if not self._path.exists():
            return []
        entries = map(_entry_of, private_files.read_bytes(self._path).splitlines())
        return [entry for entry in entries if entry is not None and entry.round > round_number]

    def repair(self, more: Iterable[Entry] = ()) -> None:
        """Write it anew without torn lines, and with `more` entries; made when missing."""
        keep = [*self.after(0), *more]
        with storage(self._path):
            self._path.parent.parent.mkdir(parents=True, exist_ok=True)
            private_files.make_folder(self._path.parent)
            sync_directory(self._path.parent.parent)
        write_bytes(self._path, b"".join(map(_line_of, keep)))


def _line_of(entry: Entry) -> bytes:
    return json.dumps(entry.to_json()).encode() + b"\n"


def _entry_of(line: bytes) -> Entry | None:
    try:
        return Entry.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return None
