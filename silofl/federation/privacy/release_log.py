"""Sums that were about to be read, on disk before they could be: what a killed run may have shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from silofl.checkpoint.entry_log import EntryLog, run_of, whole_entries
from silofl.errors import CheckpointError, ConfigError
from silofl.privacy.ledger import rounded
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
        """The entry again; an error for what is none."""
        releases = tuple((Release.from_json(kind), count) for kind, count in table["releases"])
        found = cls(**table | {"silos": tuple(table["silos"]), "releases": releases})
        whole = (found.round, found.attempt, *found.silos, *(count for _, count in releases))
        if not isinstance(found.tag, str) or not all(type(one) is int and one >= 0 for one in whole):
            raise TypeError("no entry")
        return found


class ReleaseLog:
    """One silo's file of entries of one run; appended and flushed to disk one by one."""

    def __init__(self, path: Path, run: str) -> None:
        self._log = EntryLog(path, run, FORMAT)

    def append(self, entry: Entry) -> None:
        """Have it on disk. StorageError where that fails: then the sum must not be read."""
        self._log.append(entry.to_json())

    @property
    def exists(self) -> bool:
        """Whether this silo has a log already."""
        return self._log.exists

    def after(self, round_number: int) -> list[Entry]:
        """The entries of later rounds; a line that was torn by a kill let nothing be read, and is dropped.

        Raises MismatchError where they are of another run.
        """
        entries = map(_entry_of, self._log.entries())
        return [entry for entry in entries if entry is not None and entry.round > round_number]

    def repair(self, more: Iterable[Entry] = ()) -> None:
        """Write it anew without torn lines, and with `more` entries; made when missing."""
        self._log.rewrite([entry.to_json() for entry in (*self.after(-1), *more)])


def log_path(path: Path, silo: int) -> Path:
    """Where in its run directory a silo's log lies."""
    return path / f"silo-{silo:04d}" / "privacy.jsonl"


def run_of_log(path: Path) -> str | None:
    """The id of the run that a log is of: see `entry_log.run_of`."""
    return run_of(path, FORMAT)


def entries_of(path: Path) -> list[Entry]:
    """All entries of a log, for who only reads it.

    CheckpointError where a line is damaged that no kill tore, MismatchError as `run_of_log`.
    """
    run_of_log(path)
    entries = []
    for number, table in whole_entries(path):
        try:
            entry = _entry_of(table)
        except ConfigError:
            entry = None
        if entry is None:
            raise CheckpointError(f"{path}: line {number} is damaged: it is no release of this silofl")
        entries.append(entry)
    return entries


def _entry_of(table: dict[str, Any]) -> Entry | None:
    try:
        return Entry.from_json(table)
    except (ValueError, KeyError, TypeError):
        return None


def union(entries: Sequence[Entry]) -> list[Entry]:
    """One of each sum, whichever silos wrote of it, in one order.

    Where silos say that it cost different things all of these count: nobody's log makes another's cheaper.
    """
    found = {}
    for entry in entries:
        cost = rounded(dict(entry.releases))
        found[entry.round, entry.attempt, entry.silos, str(sorted(cost.items(), key=str))] = entry
    return [found[key] for key in sorted(found)]
