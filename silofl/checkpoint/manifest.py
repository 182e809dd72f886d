"""The manifest: what makes a round exist, with everybody whose file belongs to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from silofl.errors import CheckpointError, MismatchError

FORMAT = 2
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileEntry:
    """One silo's file of one round."""

    name: str
    sha256: str
    """Of the whole file, hexadecimal."""
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """A committed round."""

    round: int
    silos: int
    """How many silos the run has in all."""
    identity: dict[str, Any]
    """What must be equal for a resume, JSON."""
    files: dict[int, FileEntry]
    """By silo, ascending: the files of those that took part."""

    @property
    def members(self) -> tuple[int, ...]:
        """The silos that took part, ascending."""
        return tuple(self.files)

    def encode(self) -> bytes:
        """JSON, keys sorted, with its own SHA-256; the same bytes on every rank."""
        content = asdict(self) | {"format": FORMAT, "members": list(self.members)}
        content["files"] = {str(silo): asdict(entry) for silo, entry in self.files.items()}
        return json.dumps(content | {"sha256": _digest(content)}, indent=1, sort_keys=True).encode() + b"\n"

    def check(self, identity: dict[str, Any], silos: int, where: str) -> None:
        """Raise MismatchError, the same on every rank, unless a run of this identity may go on from here."""
        if self.silos != silos:
            raise MismatchError(
                f"{where} holds a run of {self.silos} silos and this one has {silos}: "
                f"start {self.silos} ranks, or another run with --run",
                rank=0,
            )
        for key, value in identity.items():
            if self.identity.get(key) != value:
                what = _difference(key, value, self.identity.get(key))
                raise MismatchError(
                    f"cannot resume {where}: {what}; set it back or use another --run", rank=0
                )


def parse(data: bytes) -> Manifest:
    """What `Manifest.encode` wrote.

    Raises:
        CheckpointError: a byte is not as it was.
        MismatchError: another version of silofl wrote it.
    """
    try:
        content = json.loads(data)
        written = content["format"]
        if isinstance(written, int) and written != FORMAT:
            raise MismatchError(
                f"the checkpoint is of format {written} and this silofl reads {FORMAT}: "
                "resume it with the version that wrote it"
            )
        digest = content.pop("sha256")
        if digest != _digest(content):
            raise CheckpointError("its SHA-256 is not its content's")
        files = {int(silo): FileEntry(**entry) for silo, entry in content["files"].items()}
        return Manifest(
            content["round"], content["silos"], content["identity"], {k: files[k] for k in sorted(files)}
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError("it is not a manifest") from None


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _difference(key: str, mine: Any, there: Any) -> str:
    """`train.lr is 0.1 now and was 0.05`, or for other values that the key differs."""
    if isinstance(mine, dict) and isinstance(there, dict):
        for name, value in mine.items():
            if there.get(name) != value:
                return _difference(f"{key}.{name}" if key != "config" else name, value, there.get(name))
    if isinstance(mine, (str, int, float, bool, type(None), list)) and key != "model":
        return f"{key} is {json.dumps(mine)} now and was {json.dumps(there)}"
    return f"the {key} is not the one it was"
