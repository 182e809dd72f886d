"""The roster: which institutions take part, in the order of their silo numbers, and their public keys.

A roster is a public file that every institution checks by its digest over another channel. TOML:

    [[silo]]
    name = "north-hospital"
    key = "64 hex digits, or base64"

or JSON: `{"silo": [{"name": ..., "key": ...}, ...]}`. The first entry is silo 0.
"""

from __future__ import annotations

import base64
import binascii
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from silofl.config import decoded
from silofl.crypto.identity import PUBLIC_BYTES
from silofl.crypto.identity import verify as verify_signature
from silofl.crypto.kdf import digest
from silofl.errors import ConfigError

LONGEST_NAME = 100


@dataclass(frozen=True)
class Institution:
    """One line of the roster: a name for people and an Ed25519 public key (32 bytes)."""

    name: str
    key: bytes


@dataclass(frozen=True)
class Roster:
    """The institutions; silo k is `institutions[k]`. ConfigError unless all names and all keys differ."""

    institutions: tuple[Institution, ...]

    def __post_init__(self) -> None:
        if not self.institutions:
            raise ConfigError("the roster is empty")
        _refuse_repeats("name", [one.name for one in self.institutions])
        _refuse_repeats("key", [one.key.hex() for one in self.institutions])

    def __len__(self) -> int:
        return len(self.institutions)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of names and keys in order: equal on two machines if the rosters are."""
        return digest("roster", *(part for one in self.institutions for part in (one.name.encode(), one.key)))

    @classmethod
    def ephemeral(cls, keys: Sequence[bytes]) -> Roster:
        """The roster of one run from the public keys that its ranks made at its start.

        For simulations: nothing says who is behind a key (see `docs/threat-model.md`).
        """
        return cls(
            tuple(Institution(f"silo-{k}", _checked_key(key, f"silo {k}")) for k, key in enumerate(keys))
        )

    @classmethod
    def load(cls, path: Path) -> Roster:
        """Read a roster file (.toml or .json); ConfigError, in one sentence, for what is wrong in it."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"the roster {path} cannot be read: {error.strerror}") from None
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Roster:
        """The roster that a file holds; ConfigError, in one sentence that names `path`."""
        try:
            text = decoded(content)
            data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except ValueError as error:  # both parsers' errors, and text that is not UTF-8
            raise ConfigError(f"the roster {path} cannot be parsed: {error}") from None
        return cls(_institutions(data, path))

    def dumps(self, *, as_json: bool = False) -> str:
        """The roster as TOML (or JSON) text, keys in hex."""
        entries = [{"name": one.name, "key": one.key.hex()} for one in self.institutions]
        if as_json:
            return json.dumps({"silo": entries}, indent=2) + "\n"
        # A JSON string in ASCII is a TOML basic string.
        return "\n".join(f'[[silo]]\nname = {json.dumps(e["name"])}\nkey = "{e["key"]}"\n' for e in entries)

    def silo_of(self, key: bytes) -> int:
        """The silo number of a public key; ConfigError when it is not in the roster."""
        for number, one in enumerate(self.institutions):
            if one.key == key:
                return number
        raise ConfigError(f"the public key {key.hex()} is not in the roster")

    def verify(self, silo: int, signature: bytes, message: bytes) -> bool:
        """Whether `silo` signed `message`."""
        return verify_signature(self.institutions[silo].key, signature, message)


def _institutions(data: Any, path: Path) -> tuple[Institution, ...]:
    entries = data.get("silo") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"the roster {path} has no [[silo]] entries")
    return tuple(_institution(entry, f"{path}, silo {number}") for number, entry in enumerate(entries))


def _institution(entry: Any, where: str) -> Institution:
    if not isinstance(entry, dict) or set(entry) != {"name", "key"}:
        raise ConfigError(f"{where}: an entry has exactly `name` and `key`")
    name, key = entry["name"], entry["key"]
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise ConfigError(f"{where}: `name` must be 1 to {LONGEST_NAME} printable characters")
    if not isinstance(key, str):
        raise ConfigError(f"{where}: `key` must be text, in hex or base64")
    return Institution(name, _checked_key(_decoded(key, where), where))


def _decoded(key: str, where: str) -> bytes:
    try:
        return bytes.fromhex(key) if len(key) == 2 * PUBLIC_BYTES else base64.b64decode(key, validate=True)
    except (ValueError, binascii.Error):
        raise ConfigError(f"{where}: `key` is neither hex nor base64") from None


def _checked_key(key: bytes, where: str) -> bytes:
    if len(key) != PUBLIC_BYTES:
        raise ConfigError(f"{where}: an Ed25519 public key has {PUBLIC_BYTES} bytes, not {len(key)}")
    return key


def _refuse_repeats(what: str, values: list[str]) -> None:
    for number, value in enumerate(values):
        first = values.index(value)
        if first != number:
            raise ConfigError(f"silos {first} and {number} of the roster have the same {what}, {value}")
