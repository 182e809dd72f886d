"""The audit trail: what every round decided, chained by digests, signed by all silos that were there.

A silo's file has a line for the run, one for the keys that silos sign by, and one for each round. An entry
names the digest of the entry before, and the first one that of the run, its keys and its tensors. What
entries have to be like is in `trail_rules.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from silofl.checkpoint.checked import each, hexadecimal, named, whole
from silofl.checkpoint.entry_log import EntryLog, run_of, whole_entries
from silofl.checkpoint.manifest import SHA256_BYTES
from silofl.checkpoint.names import stem
from silofl.crypto.identity import SIGNATURE_BYTES
from silofl.crypto.kdf import digest
from silofl.crypto.roster import Roster
from silofl.errors import CheckpointError, ConfigError, MismatchError

FORMAT = 2
PURPOSE = "audit trail"
FILE = "trail.jsonl"
DTYPES = ("float32", "float64")
Json = dict[str, Any]
Silos = tuple[int, ...]
SILOS = ("present", "departed", "returned", "members")
"""The fields of an entry that are silos."""


class TrailError(CheckpointError):
    """An audit trail that does not hold: the sentence says which entry, and why."""


@dataclass(frozen=True)
class Entry:
    """What one round decided; the same on every silo.

    Attributes:
        round: from 1.
        present: silos that were there at its end, all of which sign it.
        departed: silos that are not there any more, of those of the entry before and of `members`.
        returned: silos that are there and were not for the entry before.
        members: silos whose updates are in its sum.
        model: SHA-256 (hex) of the model's shared values behind it.
        config: digest (hex) of the configuration, but for what a resume may change; one for all entries.
        decisions: who was left out, excluded and reinstated and why, with every score, and the standings
            of silos after the round; JSON.
        previous: digest (hex) of the entry before; of the first one, of the run and its keys.
    """

    round: int
    present: Silos
    departed: Silos
    returned: Silos
    members: Silos
    model: str
    config: str
    decisions: Json
    previous: str

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that every silo signs, and the next entry names."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return digest(PURPOSE, text.encode())

    def to_json(self) -> Json:
        """As JSON."""
        return {
            "round": self.round,
            "present": list(self.present),
            "departed": list(self.departed),
            "returned": list(self.returned),
            "members": list(self.members),
            "model": self.model,
            "config": self.config,
            "decisions": self.decisions,
            "previous": self.previous,
        }

    @classmethod
    def checked(cls, told: Any) -> Entry:
        """The entry again; CheckpointError for what is none."""
        table = named(told, "an entry")
        fields = ("round", *SILOS, "model", "config", "decisions", "previous")
        if table.keys() != {*fields}:
            raise CheckpointError(f"an entry has other fields than {', '.join(fields)}")
        try:
            json.dumps(table["decisions"], allow_nan=False)
        except (RecursionError, ValueError):
            raise CheckpointError("what an entry decided has numbers that are not finite") from None
        return cls(
            whole(table["round"], "the round of an entry", 1),
            _silos(table["present"]),
            _silos(table["departed"]),
            _silos(table["returned"]),
            _silos(table["members"]),
            hexadecimal(table["model"], "the model's digest in an entry", SHA256_BYTES),
            hexadecimal(table["config"], "the configuration's digest in an entry", SHA256_BYTES),
            named(table["decisions"], "what an entry decided"),
            hexadecimal(table["previous"], "the previous digest of an entry", SHA256_BYTES),
        )


@dataclass(frozen=True)
class SignedEntry:
    """An entry, and by silo a signature (64 bytes, hex) of its digest."""

    entry: Entry
    signatures: dict[int, str]

    def to_json(self) -> Json:
        """As JSON, as a line has it."""
        return {"entry": self.entry.to_json(), "signatures": {str(k): s for k, s in self.signatures.items()}}

    @classmethod
    def checked(cls, told: Any) -> SignedEntry:
        """The line again; CheckpointError for what is none."""
        table = named(told, "a line")
        if table.keys() != {"entry", "signatures"}:
            raise CheckpointError("a line has other fields than entry and signatures")
        signed = {
            _number(silo): hexadecimal(one, "a signature", SIGNATURE_BYTES)
            for silo, one in named(table["signatures"], "the signatures").items()
        }
        return cls(Entry.checked(table["entry"]), signed)


@dataclass(frozen=True)
class TrailHead:
    """What a trail says of its run.

    Attributes:
        roster: the keys that silos sign by.
        of_first_start: whether they were made at the run's first start, and are of no roster that
            institutions compared.
        layout: names and shapes of the tensors whose values are the model's, in their order.
        dtype: of these values, `float32` or `float64`.
    """

    roster: Roster
    of_first_start: bool
    layout: tuple[tuple[str, tuple[int, ...]], ...] = ()
    dtype: str = "float32"

    def to_json(self) -> Json:
        """As JSON."""
        return {
            "keys": self.roster.dumps(),
            "of_first_start": self.of_first_start,
            "layout": [[name, list(shape)] for name, shape in self.layout],
            "dtype": self.dtype,
        }

    @classmethod
    def checked(cls, told: Any, path: Path) -> TrailHead:
        """The head again; CheckpointError for what is none."""
        table = named(told, "the head of a trail")
        if table.keys() != {"keys", "of_first_start", "layout", "dtype"}:
            raise CheckpointError("its second line does not have the keys that silos sign by")
        if type(table["of_first_start"]) is not bool or table["dtype"] not in DTYPES:
            raise CheckpointError("its second line does not say what keys and numbers are")
        try:
            roster = Roster.parse(str(table["keys"]).encode(), path)
            layout = tuple(_tensor(*each(one, "a tensor")) for one in each(table["layout"], "its layout"))
        except (ConfigError, TypeError, ValueError, RecursionError):
            raise CheckpointError("its second line does not have the keys that silos sign by") from None
        return cls(roster, table["of_first_start"], layout, table["dtype"])

    def start(self, run: str) -> str:
        """What the first entry names as the one before (hex): a digest of the run and the whole head."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return digest(f"{PURPOSE} begins", run.encode(), text.encode()).hex()


@dataclass
class TrailFile:
    """One silo's trail of one run: a copy in memory, and the file, which is written when an entry is put."""

    path: Path
    run: str
    head: TrailHead
    signed: list[SignedEntry] = field(default_factory=list)
    _whole: bool = False
    """Whether the file has what memory has."""

    @property
    def newest(self) -> str:
        """The digest (hex) that the next entry names."""
        return self.digest_at(len(self.signed))

    def digest_at(self, place: int) -> str:
        """The digest (hex) of the last of the first `place` entries; of none, what the first one names."""
        return self.signed[place - 1].entry.digest.hex() if place else self.head.start(self.run)

    def put(self, signed: SignedEntry, place: int | None = None) -> None:
        """Have an entry on disk, behind the first `place` ones, all if not said. StorageError if refused."""
        kept = self.signed[:place]
        append = self._whole and len(kept) == len(self.signed)
        self.signed = [*kept, signed]
        if append:
            self._log.append(signed.to_json())
        else:
            self.rewrite()

    def cut(self, count: int) -> None:
        """Keep the first `count` entries. StorageError if the disk refuses."""
        if count < len(self.signed):
            self.signed = self.signed[:count]
            self.rewrite()

    def rewrite(self) -> None:
        """Have the file hold what memory does. StorageError if the disk refuses."""
        self._whole = False
        self._log.rewrite([self.head.to_json(), *(one.to_json() for one in self.signed)])
        self._whole = True

    def on_disk(self) -> list[SignedEntry]:
        """The entries that the file has, not verified; none where it cannot be read, or is of another run."""
        try:
            run, _, signed = read(self.path)
        except (CheckpointError, MismatchError):
            return []
        return signed if run == self.run else []

    @cached_property
    def _log(self) -> EntryLog:
        return EntryLog(self.path, self.run, FORMAT)


def trail_path(path: Path, silo: int) -> Path:
    """Where in its run directory a silo's trail lies."""
    return path / stem(silo) / FILE


def read(path: Path) -> tuple[str, TrailHead, list[SignedEntry]]:
    """A trail's run, head and entries; a last line that a kill tore is dropped, and nothing is verified.

    Raises CheckpointError where it cannot be read, MismatchError where it is of another format.
    """
    run = run_of(path, FORMAT)
    if run is None:
        raise CheckpointError(f"{path} has no audit trail")
    lines = whole_entries(path)
    try:
        head = TrailHead.checked(lines[0][1] if lines else None, path)
        return run, head, [_line(number, one) for number, one in lines[1:]]
    except CheckpointError as error:
        raise TrailError(f"{path}: {error}") from None


def _line(number: int, told: Json) -> SignedEntry:
    try:
        return SignedEntry.checked(told)
    except CheckpointError as error:
        raise CheckpointError(f"line {number} is no entry of an audit trail: {error}") from None
    except ValueError:
        raise CheckpointError(f"line {number} is no entry of an audit trail: a silo is no number") from None


def _silos(value: Any) -> Silos:
    numbers = [whole(one, "a silo of an entry") for one in each(value, "its silos")]
    if numbers != sorted(set(numbers)):
        raise CheckpointError("the silos of an entry are not in ascending order, each once")
    return tuple(numbers)


def _number(silo: str) -> int:
    """The number that a key of a table is."""
    found = whole(int(silo), "a silo that signs")
    if str(found) != silo:
        raise CheckpointError("a silo that signs is not written as a number is")
    return found


def _tensor(name: Any, shape: Any) -> tuple[str, tuple[int, ...]]:
    if not isinstance(name, str):
        raise TypeError
    return name, tuple(whole(one, "a side of a tensor") for one in each(shape, "a shape"))


def common_prefix(own: Sequence[SignedEntry], other: Iterable[SignedEntry]) -> int:
    """How many entries from the first on are the same in both."""
    count = 0
    for mine, theirs in zip(own, other, strict=False):
        if mine.entry != theirs.entry:
            break
        count += 1
    return count
