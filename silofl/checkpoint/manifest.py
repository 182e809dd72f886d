"""The manifest: what makes a round exist, with everybody whose file belongs to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from silofl.checkpoint.checked import each, hexadecimal, named, whole
from silofl.checkpoint.names import is_state_name
from silofl.crypto.framing import MOST_SILOS
from silofl.crypto.identity import SIGNATURE_BYTES
from silofl.crypto.kdf import digest
from silofl.errors import CheckpointError, MismatchError

FORMAT = 3
RUN_BYTES = 16
SHA256_BYTES = 32


@dataclass(frozen=True)
class FileEntry:
    """One silo's file of one round."""

    name: str
    sha256: str
    """Of the whole file, hexadecimal."""
    bytes: int

    @classmethod
    def checked(cls, entry: Any, silo: int) -> FileEntry:
        """The entry of `silo` that a manifest or a message states; CheckpointError unless it can be one.

        The name above all: it is opened in this silo's folder, and written where a copy is restored.
        """
        table = named(entry, f"the entry of silo {silo}")
        if table.keys() != {"name", "sha256", "bytes"}:
            raise CheckpointError(f"the entry of silo {silo} has other fields than name, sha256 and bytes")
        if not is_state_name(table["name"], silo):
            raise CheckpointError(f"the file that it names for silo {silo} is none of silo {silo}'s")
        return cls(
            table["name"],
            hexadecimal(table["sha256"], f"the SHA-256 of silo {silo}'s file", SHA256_BYTES),
            whole(table["bytes"], f"the length of silo {silo}'s file"),
        )


@dataclass(frozen=True)
class Manifest:
    """A committed round."""

    run: str
    """The run's id, 32 hexadecimal digits: no other run has it, and a resumed one keeps it."""
    round: int
    silos: int
    """How many silos the run has in all."""
    identity: dict[str, Any]
    """What must be equal for a resume, JSON."""
    files: dict[int, FileEntry]
    """By silo, ascending: the files of those that took part."""
    signatures: dict[int, str] = field(default_factory=dict)
    """By silo: Ed25519 of `digest`, hexadecimal, from every member; empty where silos have no identities."""

    @property
    def members(self) -> tuple[int, ...]:
        """The silos that took part, ascending."""
        return tuple(self.files)

    @property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of all but the signatures: what members sign, and sealed copies are bound to."""
        content = self._content()
        del content["signatures"]
        return digest("manifest", json.dumps(content, sort_keys=True).encode())

    def encode(self) -> bytes:
        """JSON, keys sorted, with its own SHA-256; the same bytes on every rank."""
        content = self._content()
        return json.dumps(content | {"sha256": _sha256(content)}, indent=1, sort_keys=True).encode() + b"\n"

    def _content(self) -> dict[str, Any]:
        content = {"format": FORMAT, "members": list(self.members), **vars(self)}  # whose copies cost a lot
        content["files"] = {str(silo): vars(entry) for silo, entry in self.files.items()}
        content["signatures"] = {str(silo): signature for silo, signature in self.signatures.items()}
        return content

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
    """What `Manifest.encode` wrote, and nothing else: of other bytes none is made use of.

    Raises:
        CheckpointError: a byte is not as it was, or a field is nothing that `encode` writes there.
        MismatchError: another version of silofl wrote it.
    """
    try:
        content = json.loads(data)
        written = content["format"]
        if type(written) is int and written != FORMAT:
            raise MismatchError(
                f"the checkpoint is of format {written} and this silofl reads {FORMAT}: "
                "resume it with the version that wrote it"
            )
        if content.pop("sha256") != _sha256(content):
            raise CheckpointError("its SHA-256 is not its content's")
        manifest = _checked(content)
        same = manifest.encode() == data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError("it is not a manifest") from None
    if not same:
        raise CheckpointError("it has more in it than a manifest")
    return manifest


def _checked(content: dict[str, Any]) -> Manifest:
    silos = whole(content["silos"], "its number of silos", 1, MOST_SILOS)
    files = _by_silo(content["files"], "its files", silos)
    signatures = _by_silo(content["signatures"], "its signatures", silos)
    if not files or list(files) != each(content["members"], "its list of members"):
        raise CheckpointError("its members are not those that its files are of")
    if not signatures.keys() <= files.keys():
        raise CheckpointError("it has signatures of others than its members")
    return Manifest(
        hexadecimal(content["run"], "its run id", RUN_BYTES),
        whole(content["round"], "its round", 1),
        silos,
        named(content["identity"], "what a resume must match"),
        {silo: FileEntry.checked(entry, silo) for silo, entry in files.items()},
        {
            silo: hexadecimal(signature, f"silo {silo}'s signature", SIGNATURE_BYTES)
            for silo, signature in signatures.items()
        },
    )


def _by_silo(table: Any, what: str, silos: int) -> dict[int, Any]:
    """The values of a table by silo, ascending. CheckpointError where a key is no silo of the run."""
    numbers = {str(silo): silo for silo in range(silos)}
    if not named(table, what).keys() <= numbers.keys():
        raise CheckpointError(f"{what} are not of silos 0 to {silos - 1}")
    return {numbers[key]: table[key] for key in sorted(table, key=lambda key: numbers[key])}


def _sha256(content: dict[str, Any]) -> str:
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
