"""Rounds on disk: `round-000012/silo-0003.safetensors` from every rank, then `manifest.json` from rank 0.

A round exists once its manifest does. Every rank writes its file and renames it into place; the ranks
exchange digests; rank 0 renames the manifest. A kill at any instruction leaves the newest round with a
manifest as the truth. Files are written by a background thread while the next round trains, so the newest
manifest is at most one round behind. Ranks may write to one shared file system or each to its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silofl.background import Background
from silofl.checkpoint.files import read_tree, storage, write_json, write_tree
from silofl.comm.protocol import Communicator
from silofl.comm.verdict import exchange, together
from silofl.errors import CheckpointError, MismatchError, SiloflError

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Restored:
    """A committed round as one rank finds it again."""

    round: int
    state: dict[str, Any]
    """This silo's tree, as it was committed."""
    notices: list[str]
    """One line for each newer round that could not be used."""


class CheckpointStore:
    """One run's checkpoints, seen from one rank. All but `begin` is collective.

    Args:
        comm: the run's ranks; the rank is the silo's number.
        directory: this rank's `checkpoints` folder; made when missing.
        identity: what must be equal for a resume, such as configuration and model; JSON.
        keep: how many committed rounds stay.
    """

    def __init__(self, comm: Communicator, directory: Path, identity: dict[str, Any], keep: int) -> None:
        self._comm, self._directory, self._identity, self._keep = comm, directory, identity, keep
        self._name = f"silo-{comm.rank:04d}.safetensors"
        self._writer: Background[tuple[str, int]] = Background()
        self._publisher: Background[list[int]] = Background()
        self._written = 0
        with together(comm), storage(directory):
            directory.mkdir(parents=True, exist_ok=True)
            for stale in directory.glob(f"round-*/.{self._name}.tmp"):
                stale.unlink(missing_ok=True)

    def begin(self, round_number: int, state: dict[str, Any]) -> None:
        """Start to commit a round, the one before being settled: files are written while the caller goes on.

        The arrays of `state` belong to the store from here on. Not collective; raises nothing.
        """
        self._written = round_number
        self._writer.start(lambda: self._write(round_number, state))

    def settle(self, note: Any = None, *, problem: SiloflError | None = None) -> list[Any]:
        """Once every rank's file is written, let rank 0 write the manifest, in the background.

        Returns every rank's `note`, which rides along. Raises on every rank what any rank's disk refused, or
        any caller's `problem`; rounds committed before stay as they are. Collective.
        """
        entry: Any = None
        old: list[int] = []
        try:
            entry = self._writer.result() if self._writer.busy else None
            old = self._publisher.result() if self._publisher.busy else []
        except SiloflError as error:
            problem = problem or error
        notes = exchange(self._comm, {"entry": entry, "old": old, "note": note}, problem)
        self._forget(notes[0]["old"])
        if self._comm.rank == 0 and entry is not None:
            round_number, entries = self._written, [one["entry"] for one in notes]
            self._publisher.start(lambda: self._publish(round_number, entries))
        return [one["note"] for one in notes]

    def drain(self) -> None:
        """Return when the newest round is committed for good."""
        self.settle()
        self.settle()

    def _write(self, round_number: int, state: dict[str, Any]) -> tuple[str, int]:
        folder = self._folder(round_number)
        with storage(folder):
            folder.mkdir(exist_ok=True)
        return write_tree(folder / self._name, state)

    def _publish(self, round_number: int, entries: list[list[Any]]) -> list[int]:
        """Rank 0: the manifest that makes the round exist; then forget the oldest. Returns those rounds.

        Manifests go before files, so that no round is ever half there.
        """
        write_json(self._folder(round_number) / MANIFEST, self._manifest(round_number, entries))
        old = self._committed()[self._keep :]
        for found in old:
            (self._folder(found) / MANIFEST).unlink(missing_ok=True)
        return old

    def _forget(self, rounds: list[int]) -> None:
        """Remove this rank's files of rounds whose manifests rank 0 has removed."""
        for found in rounds:
            folder = self._folder(found)
            (folder / self._name).unlink(missing_ok=True)
            try:
                folder.rmdir()
            except OSError:
                continue  # another rank's file is still there; the last one to go removes the folder

    def _manifest(self, round_number: int, entries: list[list[Any]]) -> dict[str, Any]:
        files = {f"silo-{k:04d}.safetensors": {"sha256": e[0], "bytes": e[1]} for k, e in enumerate(entries)}
        return {"format": FORMAT, "round": round_number, "identity": self._identity, "files": files}

    def latest(self) -> Restored | None:
        """The newest round that every rank can read back, or None where nothing was committed.

        Raises:
            MismatchError: the run was of another configuration, model or number of ranks.
            CheckpointError: rounds were committed and none can be read.
        """
        notices: list[str] = []
        for found, manifest in self._candidates(notices):
            state, problem = self._read(found, manifest)
            problems = [p.decode() for p in self._comm.allgather_bytes(problem.encode()) if p]
            if not problems:
                return Restored(found, state, notices)
            notices.append(f"the checkpoint of round {found} cannot be used ({problems[0]})")
        if notices:
            raise CheckpointError(
                f"no checkpoint in {self._directory} can be read: {'; '.join(notices)}", rank=0
            )
        return None

    def _candidates(self, notices: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rounds with a manifest, newest first, as rank 0 sees them; the same on every rank."""
        rounds = self._committed() if self._comm.rank == 0 else []
        for found in json.loads(self._comm.broadcast_bytes(json.dumps(rounds).encode())):
            text = self._comm.broadcast_bytes(self._manifest_bytes(found))
            try:
                manifest = json.loads(text)
                files = manifest["files"]
            except (ValueError, KeyError, TypeError):
                notices.append(f"the manifest of round {found} is damaged")
                continue
            self._check_identity(manifest["identity"], len(files))
            yield found, manifest

    def _manifest_bytes(self, round_number: int) -> bytes:
        if self._comm.rank != 0:
            return b""
        try:
            return (self._folder(round_number) / MANIFEST).read_bytes()
        except OSError:
            return b""

    def _check_identity(self, identity: dict[str, Any], silos: int) -> None:
        if silos != self._comm.size:
            raise MismatchError(
                f"{self._directory} holds a run of {silos} silos and this one has {self._comm.size}: "
                f"start {silos} ranks, or another run with --run",
                rank=0,
            )
        for key, value in self._identity.items():
            if identity.get(key) != value:
                what = _difference(key, value, identity.get(key))
                raise MismatchError(
                    f"cannot resume {self._directory}: {what}; set it back or use another --run", rank=0
                )

    def _read(self, round_number: int, manifest: dict[str, Any]) -> tuple[dict[str, Any], str]:
        try:
            digest = manifest["files"][self._name]["sha256"]
            return read_tree(self._folder(round_number) / self._name, digest), ""
        except (CheckpointError, KeyError, TypeError) as error:
            return {}, str(error)

    def _committed(self) -> list[int]:
        """Rounds with a manifest here, newest first."""
        names = (path.parent.name for path in self._directory.glob(f"round-*/{MANIFEST}"))
        matches = (re.fullmatch(r"round-(\d{6,})", name) for name in names)
        return sorted((int(m[1]) for m in matches if m), reverse=True)

    def _folder(self, round_number: int) -> Path:
        return self._directory / f"round-{round_number:06d}"


def _difference(key: str, mine: Any, there: Any) -> str:
    """`train.lr is 0.1 now and was 0.05`, or for other values that the key differs."""
    if isinstance(mine, dict) and isinstance(there, dict):
        for name, value in mine.items():
            if there.get(name) != value:
                return _difference(f"{key}.{name}" if key != "config" else name, value, there.get(name))
    if isinstance(mine, (str, int, float, bool, type(None), list)) and key != "model":
        return f"{key} is {json.dumps(mine)} now and was {json.dumps(there)}"
    return f"the {key} is not the one it was"
