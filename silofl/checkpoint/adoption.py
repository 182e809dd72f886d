"""A round that some silos have written and that was not committed, for these to commit without the others.

A round is committed while the next one trains, so that a host which is lost leaves one behind whose files lie
on the disks of all others. Its sum may have been opened (`opening_log.py`), so that silos which go on without
that host may not take the round again. They need not: on several hosts their files have copies of what the
lost silos served. Each file says of which silos' round it is, and has a digest of what is in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silofl.checkpoint.atomic_files import file_entry, read_skeleton
from silofl.checkpoint.checked import each, named, refused, whole
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.checkpoint.manifest import FileEntry
from silofl.comm.collective_errors import allgather_object
from silofl.comm.protocol import Communicator
from silofl.errors import CheckpointError

MARK = "round"
"""The key of a file's mark beside its parts."""
Silos = tuple[int, ...]


@dataclass(frozen=True)
class _Written:
    """One file of a round that is not committed."""

    round: int
    common: str
    silos: Silos
    """Those that the round was begun to be committed by."""
    entry: FileEntry

    def to_json(self) -> list[Any]:
        return [self.round, self.common, self.silos, vars(self.entry)]

    @classmethod
    def checked(cls, told: Any, silo: int) -> _Written:
        number, common, silos, entry = each(told, "a file")
        if not isinstance(common, str):
            raise CheckpointError("the digest of a round is no text")
        listed = tuple(whole(one, "a silo") for one in each(silos, "the silos of a round"))
        return cls(whole(number, "a round", 1), common, listed, FileEntry.checked(entry, silo))


def mark(common: str, silos: Silos) -> dict[str, Any]:
    """What a state tree has beside its parts, where all files of the round have a `common` digest."""
    return {MARK: {"common": common, "silos": list(silos)}} if common else {}


def newest_of_all(
    comm: Communicator, directory: CheckpointDirectory, committed: int
) -> tuple[int, Silos, dict[int, FileEntry]] | None:
    """The newest round after `committed` of which every rank has a file, and all are of one; collective.

    With it the silos that it was begun by, and the files. ProtocolError, on every rank, for what no rank of
    ours tells.
    """
    mine = [one.to_json() for one in _written(directory, committed)]
    told = allgather_object(comm, mine)
    every = [_checked(files, silo) for silo, files in zip(comm.members, told, strict=True)]
    for one in sorted(every[0], key=lambda one: -one.round):
        key = (one.round, one.common, one.silos)
        same = [
            next((other for other in files if (other.round, other.common, other.silos) == key), None)
            for files in every
        ]
        if one.round > committed and {*comm.members} <= {*one.silos} and None not in same:
            files = {
                silo: other.entry for silo, other in zip(comm.members, same, strict=True) if other is not None
            }
            return one.round, one.silos, files
    return None


def _checked(told: Any, silo: int) -> list[_Written]:
    try:
        return [_Written.checked(one, silo) for one in each(told, "its list")]
    except (CheckpointError, ValueError) as error:
        raise refused(silo, error) from None


def _written(directory: CheckpointDirectory, committed: int) -> list[_Written]:
    """What this silo has of later rounds; what cannot be read, or has no mark, is passed over."""
    found = []
    for number in directory.rounds():
        for path in directory.own_files(number) if number > committed else ():
            one = _marked(path, number, directory.silo)
            found += [] if one is None else [one]
    return found


def _marked(path: Path, number: int, silo: int) -> _Written | None:
    try:
        digest, size = file_entry(path)
        told = named(read_skeleton(path, digest).get(MARK), "its mark")
        entry = vars(FileEntry(path.name, digest, size))
        return _Written.checked([number, told.get("common"), told.get("silos"), entry], silo)
    except (CheckpointError, OSError):
        return None
