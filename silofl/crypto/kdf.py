"""Key derivation: HKDF-SHA256 (RFC 5869) with the whole context of a key in its `info`."""

from __future__ import annotations

import hashlib
import struct

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from silofl.crypto.secret import Secret

PROTOCOL = b"silofl/2"
"""Name and version of the protocol; it opens every `info` and every digest."""


def hkdf(secret: Secret, length: int, *, salt: bytes, info: bytes) -> Secret:
    """Derive `length` bytes (1 to 8160) from `secret` (RFC 5869, SHA-256)."""
    return Secret(HKDF(SHA256(), length, salt, info).derive(secret.expose()))


def pack_fields(*fields: bytes) -> bytes:
    """Every field behind its length (4 bytes): two different tuples never give the same bytes."""
    return b"".join([part for field in fields for part in (len(field).to_bytes(4), field)])


def digest(purpose: str, *fields: bytes) -> bytes:
    """SHA-256 (32 bytes) of the protocol's name, the purpose and the fields, each behind its length."""
    return hashlib.sha256(pack_fields(PROTOCOL, purpose.encode(), *fields)).digest()


def key_info(purpose: str, session: bytes, number: int, *silos: int) -> bytes:
    """The `info` of one key: protocol and version, purpose, session, round and the silos it is between."""
    return pack_fields(PROTOCOL, purpose.encode(), session, struct.pack(">Q", number), pack_silos(silos))


def pack_silos(silos: tuple[int, ...]) -> bytes:
    """Silo numbers as 4-byte big-endian integers, in the given order."""
    return struct.pack(f">{len(silos)}I", *silos)
