"""One rank's checkpoint folder: what lies there, what is written, what goes. Knows no other rank.

Ranks may share the folder or have one each. Where they share it, each writes and removes what is its own, and
whatever two of them write under one name is the same bytes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from silofl import private_files
from silofl.checkpoint.atomic_files import storage, write_bytes, write_packed
from silofl.checkpoint.manifest import FileEntry, Manifest, parse
from silofl.checkpoint.names import MANIFEST, is_state_name, round_name, sealed_name, state_name, stem
from silofl.checkpoint.tree import Arrays
from silofl.errors import CheckpointError


class CheckpointDirectory:
    """The rounds of a run in one folder, for one silo.

    Args:
        directory: the folder; made when the first file is written.
        silo: whose files are written here.
    """

    def __init__(self, directory: Path, silo: int) -> None:
        self.directory, self.silo = directory, silo

    def remove_stale(self) -> None:
        """Remove what a killed process of this silo left half written; for who holds the silo's lock."""
        for folder in self.directory.glob("round-*"):
            with suppress(OSError):  # another silo may be removing the folder
                for stale in folder.glob(f".{stem(self.silo)}.*tmp"):
                    stale.unlink()

    def folder(self, round_number: int) -> Path:
        """Where a round lies."""
        return self.directory / round_name(round_number)

    def write_state(self, round_number: int, attempt: int, skeleton: Any, arrays: Arrays) -> FileEntry:
        """Write this silo's packed tree, durable on return.

        A round that is begun again (`attempt` > 0) gets another name, and so does one whose name a manifest
        here has: a manifest of an earlier attempt, on any disk, stays true. Raises StorageError.
        """
        taken = {entry.name for one in self._manifests_of(round_number) for entry in one.files.values()}
        name = next(name for k in count(attempt) if (name := state_name(self.silo, k)) not in taken)
        digest, size = write_packed(self.make_folder(round_number) / name, skeleton, arrays)
        return FileEntry(name, digest, size)

    def make_folder(self, round_number: int) -> Path:
        """The round's folder, existing. Raises StorageError."""
        folder = self.folder(round_number)
        with storage(folder):
            self.directory.mkdir(mode=private_files.PRIVATE_FOLDER, parents=True, exist_ok=True)
            private_files.make_folder(folder)
        return folder

    def publish(self, manifest: Manifest) -> None:
        """Write a manifest unless these very bytes are there. Raises StorageError.

        One of an earlier attempt at the round is put aside, not lost: it may name a silo that is away now.
        """
        data, folder = manifest.encode(), self.make_folder(manifest.round)
        if data in map(_bytes_of, _manifest_paths(folder)):
            return
        earlier = _bytes_of(folder / MANIFEST)
        if earlier is not None and _intact(earlier) is not None:
            aside = next(path for k in count(1) if not (path := folder / f"manifest.{k}.json").exists())
            write_bytes(aside, earlier, self.silo)
        write_bytes(folder / MANIFEST, data, self.silo)

    def leads(self, manifest: Manifest) -> bool:
        """Whether, of the silos whose files of this round lie in this folder, this one has the lowest number.

        It then writes the folder's manifest. Where a network file system shows files late, several may.
        """
        folder = self.folder(manifest.round)
        return next(k for k, e in manifest.files.items() if k == self.silo or (folder / e.name).exists()) == (
            self.silo
        )

    def own_files(self, round_number: int) -> list[Path]:
        """This silo's files of a round, of whatever attempts."""
        found = self.folder(round_number).glob(f"{stem(self.silo)}*")
        return sorted(path for path in found if is_state_name(path.name, self.silo))

    def has_sealed(self, silo: int) -> bool:
        """Whether a sealed copy of a silo's file of any round is here."""
        return any((self.folder(number) / sealed_name(silo)).exists() for number in self.rounds())

    def rounds(self) -> list[int]:
        """Rounds that have a folder, committed or not, newest first."""
        folders = [path for path in self.directory.glob("round-*") if not path.is_symlink()]
        matches = (re.fullmatch(r"round-([0-9]{6,15})", path.name) for path in folders)
        return sorted((int(m[1]) for m in matches if m and m[0] == round_name(int(m[1]))), reverse=True)

    def manifests(self) -> tuple[list[Manifest], list[int]]:
        """Committed rounds as seen here, and those with a damaged manifest; both newest first.

        A round that was committed again has several manifests, the last one first. Raises MismatchError where
        another version of silofl wrote them.
        """
        intact: list[Manifest] = []
        damaged: list[int] = []
        for found in self.rounds():
            paths = _manifest_paths(self.folder(found))
            of_round = self._manifests_of(found)
            intact += of_round
            damaged += [found] if len(of_round) < len(paths) else []
        return intact, damaged

    def _manifests_of(self, round_number: int) -> list[Manifest]:
        """The intact ones, the last one first."""
        read = (_intact(_bytes_of(path)) for path in _manifest_paths(self.folder(round_number)))
        return [manifest for manifest in read if manifest is not None and manifest.round == round_number]

    def prune(self, kept: Iterable[int], newest: int) -> None:
        """Remove rounds before `newest` that are not `kept`: manifests first, so that none is half there.

        What cannot be removed is tried again next time.
        """
        old = [found for found in self.rounds() if found < newest and found not in set(kept)]
        for found in old:
            with suppress(OSError):
                for path in _manifest_paths(self.folder(found)):
                    path.unlink(missing_ok=True)
                shutil.rmtree(self.folder(found), ignore_errors=True)


def kept_rounds(history: dict[int, tuple[int, ...]], silos: int, keep: int) -> list[int]:
    """Which rounds stay: the newest `keep`, and for each silo that the newest has not, its own newest.

    Args:
        history: members by committed round.
        silos: how many silos there are in all.
        keep: at least 1.
    """
    newest_first = sorted(history, reverse=True)
    kept = set(newest_first[:keep])
    for silo in range(silos):
        own = next((found for found in newest_first if silo in history[found]), None)
        kept |= {own} if own is not None else set()
    return sorted(kept, reverse=True)


def _manifest_paths(folder: Path) -> list[Path]:
    """The round's manifest, then those of its earlier attempts, latest first; only what is there."""
    numbers = (
        (re.fullmatch(r"manifest\.([1-9][0-9]{0,8})\.json", path.name), path)
        for path in folder.glob("manifest.*")
    )
    aside = sorted(((int(match[1]), path) for match, path in numbers if match), reverse=True)
    newest = folder / MANIFEST
    return [*([newest] if newest.exists() else []), *(path for _, path in aside)]


def _intact(data: bytes | None) -> Manifest | None:
    try:
        return parse(data) if data is not None else None
    except CheckpointError:
        return None


def _bytes_of(path: Path) -> bytes | None:
    try:
        return private_files.read_bytes(path)
    except OSError:
        return None
