"""One rank's checkpoint folder: what lies there, what is written, what goes. Knows no other rank.

Ranks may share the folder or have one each. Where they share it, each writes and removes what is its own, and
whatever two of them write under one name is the same bytes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from silofl.checkpoint.files import storage, write_bytes, write_packed
from silofl.checkpoint.manifest import MANIFEST, FileEntry, Manifest, parse
from silofl.checkpoint.tree import Arrays
from silofl.errors import CheckpointError


class Shelf:
    """The rounds of a run in one folder, for one silo.

    Args:
        directory: the folder; made when the first file is written.
        silo: whose files are written here.
    """

    def __init__(self, directory: Path, silo: int) -> None:
        self.directory, self.silo = directory, silo
        for folder in directory.glob("round-*"):
            with suppress(OSError):  # another silo may be removing the folder
                for stale in folder.glob(f".{_stem(silo)}.*tmp"):
                    stale.unlink()

    def folder(self, round_number: int) -> Path:
        """Where a round lies."""
        return self.directory / f"round-{round_number:06d}"

    def write_state(self, round_number: int, attempt: int, skeleton: Any, arrays: Arrays) -> FileEntry:
        """Write this silo's packed tree, durable on return.

        A round that is begun again (`attempt` > 0) gets another name: a manifest of the first attempt, on
        whoever's disk, stays true. Raises StorageError.
        """
        name = f"{_stem(self.silo)}{f'.{attempt}' if attempt else ''}.safetensors"
        digest, size = write_packed(self.make_folder(round_number) / name, skeleton, arrays)
        return FileEntry(name, digest, size)

    def make_folder(self, round_number: int) -> Path:
        """The round's folder, existing. Raises StorageError."""
        folder = self.folder(round_number)
        with storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, manifest: Manifest) -> None:
        """Write a manifest unless these very bytes are there. Raises StorageError."""
        data, path = manifest.encode(), self.folder(manifest.round) / MANIFEST
        if _bytes_of(path) != data:
            write_bytes(self.make_folder(manifest.round) / MANIFEST, data, self.silo)

    def leads(self, manifest: Manifest) -> bool:
        """Whether, of the silos whose files of this round lie in this folder, this one has the lowest number.

        It then writes the folder's manifest. Where a network file system shows files late, several may.
        """
        folder = self.folder(manifest.round)
        return next(k for k, e in manifest.files.items() if k == self.silo or (folder / e.name).exists()) == (
            self.silo
        )

    def rounds(self) -> list[int]:
        """Rounds that have a folder, committed or not, newest first."""
        matches = (re.fullmatch(r"round-(\d{6,})", path.name) for path in self.directory.glob("round-*"))
        return sorted((int(m[1]) for m in matches if m), reverse=True)

    def manifests(self) -> tuple[dict[int, Manifest], list[int]]:
        """Committed rounds as seen here, and those whose manifest is damaged; both newest first.

        Raises MismatchError where another version of silofl wrote them.
        """
        intact: dict[int, Manifest] = {}
        damaged: list[int] = []
        for found in self.rounds():
            data = _bytes_of(self.folder(found) / MANIFEST)
            if data is None:
                continue
            try:
                manifest = parse(data)
                if manifest.round != found:
                    raise CheckpointError("it is another round's")
                intact[found] = manifest
            except CheckpointError:
                damaged.append(found)
        return intact, damaged

    def prune(self, kept: Iterable[int], newest: int) -> None:
        """Remove rounds before `newest` that are not `kept`: manifests first, so that none is half there.

        What cannot be removed is tried again next time.
        """
        old = [found for found in self.rounds() if found < newest and found not in set(kept)]
        for found in old:
            with suppress(OSError):
                (self.folder(found) / MANIFEST).unlink(missing_ok=True)
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


def _stem(silo: int) -> str:
    return f"silo-{silo:04d}"


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
