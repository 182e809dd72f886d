"""Buddies: each silo's file also lies with another silo, sealed, and comes back when its own disk is lost.

A buddy is on another host where there are several (`by_host.partners`). Who has a copy is asked of all: it
may have come to lie there under another rule, or before silos moved.

Files cross in pieces beside the next round, on a communicator of their own, when their round's commit is
under way: a rank that is lost in the middle, or a buddy's full disk, takes nothing from the round. A sealed
copy shows the file's length and nothing else. Where silos share a folder, it protects from nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median_low
from typing import Any

from silofl import private_files
from silofl.background import Background
from silofl.checkpoint.atomic_files import PieceWriter
from silofl.checkpoint.checked import each, refused, whole
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.checkpoint.manifest import FileEntry, Manifest
from silofl.checkpoint.names import sealed_name
from silofl.comm.by_host import partners
from silofl.comm.collective_errors import allgather_object
from silofl.comm.protocol import Communicator, RankFailedError
from silofl.crypto.chunked_aead import (
    CHUNK_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    Opener,
    Sealer,
    piece_count,
    sealed_bytes,
)
from silofl.crypto.secret import Secret
from silofl.errors import CheckpointError, SiloflError, StorageError

BOX_BYTES = CHUNK_BYTES + TAG_BYTES
LONGER, SPARE_BYTES = 4, 1 << 26
"""A silo's file may be so many times as long as is usual in its round, and this longer."""


class Buddies:
    """One rank's part in keeping each other's files.

    Args:
        comm: the ranks that are there now.
        directory: this rank's folder.
        key: 32 bytes that only this silo holds.
    """

    def __init__(self, comm: Communicator, directory: CheckpointDirectory, key: Secret) -> None:
        self._comm, self._directory, self._key = comm, directory, key
        self._checkpoints: Background[None] = Background()
        self._problem: SiloflError | None = None
        self._channel: Communicator | None = None

    def reform(self, comm: Communicator) -> None:
        """Go on with other ranks; a copy that is under way is finished or given up. Not collective."""
        if self._checkpoints.busy:
            with suppress(SiloflError, RankFailedError):  # a disk that refuses again is reported then
                self._checkpoints.result()
        self._comm, self._problem, self._channel = comm, None, None

    def result(self) -> None:
        """Wait until the last copies are durable.

        Raises StorageError where this rank's part failed, ProtocolError where a silo sent what is no piece of
        its file, RankFailedError where a rank was lost meanwhile.
        """
        if self._checkpoints.busy:
            self._checkpoints.result()
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def give(self, manifest: Manifest) -> None:
        """Start to hand this silo's file to its buddy and to keep those of whose buddy it is; collective.

        `manifest` is of these ranks. The copy is bound to it. What fails is raised by `result`.

        Raises:
            ProtocolError: a silo's file would be far longer than the others'; on every rank.
        """
        if self._comm.size == 1:
            return
        _refuse_long(manifest)
        if self._channel is None:
            self._channel = self._comm.duplicate()
        channel, buddy_of = self._channel, partners(self._comm.host_groups())
        self._checkpoints.start(lambda: self._swap(channel, manifest, buddy_of))

    def _swap(self, channel: Communicator, manifest: Manifest, buddy_of: tuple[int, ...]) -> None:
        rank, files = channel.rank, list(manifest.files.values())
        counts = [piece_count(entry.bytes) for entry in files]
        boxes = self._boxes(manifest, files[rank])
        kept = [owner for owner, buddy in enumerate(buddy_of) if buddy == rank]
        copies = {owner: self._copy(manifest.round, channel.members[owner]) for owner in kept}
        try:
            for number in range(max(counts)):
                box = next(boxes, b"")
                every = channel.alltoall_bytes(
                    [box if k == buddy_of[rank] else b"" for k in range(channel.size)]
                )
                for owner, copy in copies.items():
                    if number < counts[owner] and copy is not None:
                        due = _box_bytes(files[owner].bytes, number)
                        copies[owner] = self._add(copy, every[owner], due, channel.members[owner])
        except BaseException:  # a rank was lost
            for copy in filter(None, copies.values()):
                copy.discard()
            raise
        for copy in filter(None, copies.values()):
            try:
                copy.finish()
            except StorageError as error:
                self._problem = error

    def _boxes(self, manifest: Manifest, entry: FileEntry) -> Iterator[bytes]:
        """This silo's file, sealed; nothing more once it could not be read."""
        path = self._directory.folder(manifest.round) / entry.name
        sealer = Sealer(self._key, self._directory.silo, manifest.round, manifest.digest)
        last = piece_count(entry.bytes) - 1
        try:
            with private_files.read(path) as file:
                for number in range(last + 1):
                    yield sealer.seal(file.read(CHUNK_BYTES), last=number == last)
        except OSError as error:
            self._problem = StorageError(f"cannot read {path}: {error.strerror}")

    def _copy(self, round_number: int, silo: int) -> PieceWriter | None:
        try:
            return PieceWriter(self._directory.make_folder(round_number) / sealed_name(silo))
        except StorageError as error:
            self._problem = error
            return None

    def _add(self, copy: PieceWriter, box: bytes, due: int, silo: int) -> PieceWriter | None:
        """Write a box; None where that failed, or where its owner had none to give and says why itself."""
        if box and len(box) != due:
            self._problem = refused(silo, f"a piece of its file to keep has {len(box)} bytes, not {due}")
            box = b""
        try:
            copy.write(box)
        except StorageError as error:
            self._problem = error
            box = b""
        if box:
            return copy
        copy.discard()
        return None

    def ask(self, wanted: Manifest | None) -> tuple[int | None, str]:
        """Get this silo's file of a round back from the silo that has its sealed copy; collective.

        `wanted` is None where nothing is missing. Returns the silo that had the copy, the file being in its
        place then, or None and why it is not.
        """
        mine = None
        if wanted is not None:
            mine = [wanted.round, sealed_bytes(wanted.files[self._directory.silo].bytes)]
        told = zip(self._comm.members, allgather_object(self._comm, mine), strict=True)
        needs = [_need(silo, need) for silo, need in told if need is not None]
        told = zip(
            self._comm.members,
            allgather_object(self._comm, [self._holds(*need) for need in needs]),
            strict=True,
        )
        every = [_answers(silo, answers, len(needs)) for silo, answers in told]
        answer: tuple[int | None, str] = (None, "no other silo has a copy")
        for place, (silo, found, size) in enumerate(needs):
            for keeper in (rank for rank, holds in enumerate(every) if holds[place]):
                problem = self._return(silo, found, keeper, size, wanted)
                if silo == self._directory.silo:
                    answer = (None, problem) if problem else (self._comm.members[keeper], "")
                if not any(allgather_object(self._comm, problem)):
                    break
        return answer

    def _return(self, silo: int, found: int, keeper: int, size: int, wanted: Manifest | None) -> str:
        """Move one sealed copy from the rank `keeper` to `silo`, which opens it; collective.

        Returns what went wrong, an empty string on other ranks.
        """
        owner = self._comm.members.index(silo)
        count = 1 + (size - SALT_BYTES - 1) // BOX_BYTES
        boxes = self._kept_boxes(self._sealed(silo, found)) if self._comm.rank == keeper else iter(())
        restoring = None
        if wanted is not None and silo == self._directory.silo:
            restoring = _Restoring(self._directory, self._key, wanted)
        for number in range(count):
            box = next(boxes, b"")
            every = self._comm.alltoall_bytes([box if k == owner else b"" for k in range(self._comm.size)])
            if restoring is not None:
                restoring.add(every[keeper], last=number == count - 1)
        return restoring.finish() if restoring is not None else ""

    def _kept_boxes(self, path: Path) -> Iterator[bytes]:
        """A sealed copy in the pieces in which it came; it ends early where it cannot be read."""
        try:
            with private_files.read(path) as file:
                box = file.read(SALT_BYTES + BOX_BYTES)
                while box:
                    yield box
                    box = file.read(BOX_BYTES)
        except OSError:
            return

    def _holds(self, silo: int, found: int, size: int) -> bool:
        try:
            return self._sealed(silo, found).stat().st_size == size
        except OSError:
            return False

    def _sealed(self, silo: int, found: int) -> Path:
        return self._directory.folder(found) / sealed_name(silo)


class _Restoring:
    """A file that comes back piece by piece; its first problem ends it."""

    def __init__(self, directory: CheckpointDirectory, key: Secret, manifest: Manifest) -> None:
        self._entry = manifest.files[directory.silo]
        self._opener = Opener(key, directory.silo, manifest.round, manifest.digest)
        self._sha = hashlib.sha256()
        self._file: PieceWriter | None = None
        self._problem = ""
        try:
            self._file = PieceWriter(directory.make_folder(manifest.round) / self._entry.name)
        except StorageError as error:
            self._problem = str(error)

    def add(self, box: bytes, *, last: bool) -> None:
        """Open and write the next box."""
        if self._file is None:
            return
        try:
            piece = self._opener.open(box, last=last)
            self._sha.update(piece)
            self._file.write(piece)
            if last and self._sha.hexdigest() != self._entry.sha256:
                raise CheckpointError("the sealed copy is of another attempt at the round")
        except (CheckpointError, StorageError) as error:
            self._file.discard()
            self._file, self._problem = None, str(error)

    def finish(self) -> str:
        """Give the file its name; what went wrong, or an empty string."""
        try:
            if self._file is not None:
                self._file.finish()
        except StorageError as error:
            return str(error)
        return self._problem


def _refuse_long(manifest: Manifest) -> None:
    """Raise ProtocolError for a file that no state needs: at least half of all are far shorter."""
    usual = median_low(entry.bytes for entry in manifest.files.values())
    most = LONGER * usual + SPARE_BYTES
    for silo, entry in manifest.files.items():
        if entry.bytes > most:
            raise refused(
                silo,
                f"its file of round {manifest.round} has {entry.bytes} bytes, and none is kept above {most}",
            )


def _box_bytes(size: int, number: int) -> int:
    """How long a box of a sealed file is, of a file of `size` bytes."""
    piece = min(CHUNK_BYTES, size - number * CHUNK_BYTES)
    return piece + TAG_BYTES + (SALT_BYTES if number == 0 else 0)


def _need(silo: int, need: Any) -> tuple[int, int, int]:
    """Silo, round and sealed size of the copy that a silo asks for: its own and no other."""
    try:
        found, size = each(need, "what it asks for")
        return silo, whole(found, "a round", 1), whole(size, "a length", SALT_BYTES + TAG_BYTES)
    except (CheckpointError, ValueError) as error:
        raise refused(silo, error) from None


def _answers(silo: int, answers: Any, count: int) -> list[bool]:
    """Which of the copies that are asked for a silo holds."""
    if not isinstance(answers, list) or [*map(type, answers)] != [bool] * count:
        raise refused(silo, f"it does not answer {count} times yes or no")
    return answers
