"""The file of an institution's own budget: what all runs have released of its data, which outlives them.

A line is on disk before what it tells of is brought to a sum. Each tells which run, in which folder, showed
what; the same sum that is taken again in its own folder counts once, in a copy of the folder it counts again.
Each line has a digest of itself and all before it: one that is changed, or gone from the middle, is noticed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from silofl import private_files
from silofl.checkpoint.atomic_files import storage, sync_directory
from silofl.errors import CheckpointError, ConfigError, MismatchError, StorageError
from silofl.privacy.accountant import Method
from silofl.privacy.processes import dearest
from silofl.privacy.releases import Release

FORMAT = 1
LOCK_S = 30.0
"""How long another run may hold the file."""


@dataclass(frozen=True)
class Spending:
    """One sum that was about to be read, of this institution's data."""

    run: str
    where: str
    """Of the run directory: a copy of it is another."""
    silo: int
    round: int
    attempt: int
    tag: str
    """Of what the silo brought; it tells this silo alone anything."""
    data: str
    """The fingerprint of what it trained on."""
    unit: str
    place: str
    colluding: int
    delta: float
    method: Method
    releases: tuple[tuple[Release, int], ...]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal where nothing more is learnt: the same round of the same run, shown again as it was."""
        shown = tuple((release.to_json(), count) for release, count in self.releases)
        return (self.run, self.where, self.round, self.attempt, self.tag, shown)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"releases": [[kind.to_json(), count] for kind, count in self.releases]}

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Spending:
        """The spending again; an error for anything else."""
        releases = tuple((Release.from_json(kind), count) for kind, count in table["releases"])
        found = cls(**table | {"releases": releases})
        whole = (found.silo, found.round, found.attempt, found.colluding, *(n for _, n in releases))
        if not all(type(one) is int and one >= 0 for one in whole) or not 0 < found.delta < 1:
            raise TypeError("no spending")
        return found


class BudgetFile:
    """All spendings of one data set. Several runs may use it at once; calls block while another writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spendings: list[Spending] = []
        self._keys: set[tuple[object, ...]] = set()
        self._read, self._chain = 0, ""

    def update(self) -> None:
        """Read what others have written since. CheckpointError where a line is damaged."""
        if self.path.exists():
            with self._locked() as file:
                self._take_up(file)

    @property
    def spent(self) -> dict[Release, int] | None:
        """How often each release was made, of the lines read so far, of the records of which most were.

        None where the noise of a run counts for nothing.
        """
        by_run = defaultdict[tuple[str, str], Counter[Release]](Counter)
        for one in self.spendings:
            by_run[one.run, one.where].update(dict(one.releases))
        found = Counter[Release]()
        for releases in by_run.values():
            whole = dearest(releases)
            if whole is None:
                return None
            found.update(whole)
        return dict(found)

    @property
    def runs(self) -> int:
        """How many there were; one that goes on in a copy of its folder is another."""
        return len({(one.run, one.where) for one in self.spendings})

    @contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """Keep others out, all that is written being read; makes the file where it is missing.

        StorageError where that fails, CheckpointError where it is damaged.
        """
        with storage(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=private_files.PRIVATE_FOLDER)
        with self._locked() as file:
            self._take_up(file)
            yield file

    def append(self, file: IO[bytes], one: Spending) -> None:
        """Have a spending on disk, unless it is there, in `writing`. StorageError where that fails."""
        if one.key in self._keys:
            return
        with storage(self.path):
            file.truncate(self._read)  # a line that a kill tore let nothing be shown
            table = one.to_json()
            head = b"" if self._read else json.dumps({"format": FORMAT}).encode() + b"\n"
            line = json.dumps(table | {"chain": _chain(self._chain, table)}).encode() + b"\n"
            file.write(head + line)
            file.flush()
            os.fsync(file.fileno())
            sync_directory(self.path.parent)
        self._take_up(file)

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        try:
            file = private_files.append(self.path)
        except OSError as error:
            raise StorageError(
                f"the budget file {self.path} cannot be opened: {error.strerror}; nothing is brought to a sum"
            ) from None
        deadline = time.monotonic() + LOCK_S
        with file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in {errno.EACCES, errno.EAGAIN} or time.monotonic() > deadline:
                        raise StorageError(
                            f"the budget file {self.path} cannot be locked: {error.strerror}; it must lie "
                            "where files can be, and no other run may hold it for long"
                        ) from None
                    time.sleep(0.01)
            yield file  # the lock goes with it

    def _take_up(self, file: IO[bytes]) -> None:
        """Read from where the last reading ended."""
        file.seek(0, os.SEEK_END)
        if file.tell() < self._read:
            raise self._damaged("it is shorter than it was")
        file.seek(self._read)
        content = file.read()
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            if self._read:
                self._add(line)
            else:
                self._begin(line)
            self._read += len(line)

    def _begin(self, line: bytes) -> None:
        head = _table(line)
        if head is None or head.keys() != {"format"}:
            raise self._damaged("it has no first line of silofl's")
        if head["format"] != FORMAT:
            raise MismatchError(
                f"the budget file {self.path} is of format {head['format']} and this silofl reads {FORMAT}: "
                "use the version that wrote it"
            )

    def _add(self, line: bytes) -> None:
        table, number = _table(line), len(self.spendings) + 2
        if table is None or table.pop("chain", None) != _chain(self._chain, table):
            raise self._damaged(f"line {number} is not as it was written, or one before it is gone")
        try:
            one = Spending.from_json(table)
        except (ValueError, KeyError, TypeError, ConfigError):
            raise self._damaged(f"line {number} is no release of this silofl") from None
        self._chain = _chain(self._chain, table)
        self.spendings.append(one)
        self._keys.add(one.key)

    def _damaged(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"the budget file {self.path} is damaged ({why}): nothing is brought to a sum; restore it from a "
            "backup that is no older than the last run"
        )


def _chain(before: str, table: dict[str, Any]) -> str:
    return hashlib.sha256(before.encode() + json.dumps(table, sort_keys=True).encode()).hexdigest()[:32]


def _table(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
