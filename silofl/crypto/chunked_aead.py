"""Long files sealed in pieces, to be kept by a party that must not read them.

ChaCha20-Poly1305 (RFC 8439) over pieces in the manner of STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015):
the nonce is the piece's number and whether it is the last, so that pieces left out, exchanged or cut off at
the end are refused. Each file has a key of its own, derived from its silo's key and a random salt
(HKDF-SHA256) for one silo, one round and what the round is a part of (`bound_to`), so a nonce is never used
twice however often a round is sealed.

A sealed file is the salt (32 bytes) and then its boxes, each `TAG_BYTES` longer than its piece.
"""

from __future__ import annotations

import secrets
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from silofl.crypto.kdf import hkdf, key_info, pack_fields, pack_silos
from silofl.crypto.secret import Secret, Unpicklable
from silofl.errors import CheckpointError

KEY_BYTES = 32
SALT_BYTES = 32
TAG_BYTES = 16
CHUNK_BYTES = 1 << 22


def piece_count(size: int) -> int:
    """How many pieces a file of `size` bytes has; at least one."""
    return max(1, -(-size // CHUNK_BYTES))


def sealed_bytes(size: int) -> int:
    """How long a file of `size` bytes is when it is sealed."""
    return SALT_BYTES + size + TAG_BYTES * piece_count(size)


class _Stream(Unpicklable):
    """The pieces of one file, in order."""

    __slots__ = ("_cipher", "_context", "_done", "_number")

    def __init__(self, key: Secret, salt: bytes, silo: int, round_number: int, bound_to: bytes) -> None:
        own = hkdf(key, KEY_BYTES, salt=salt, info=key_info("vault", bound_to, round_number, silo))
        self._cipher = ChaCha20Poly1305(own.expose())
        self._context = pack_fields(b"vault", pack_silos((silo,)), struct.pack(">Q", round_number), bound_to)
        self._number, self._done = 0, False

    def next(self, last: bool) -> tuple[bytes, bytes]:
        """Nonce (12 bytes) and associated data of the next piece. ValueError after the last."""
        if self._done:
            raise ValueError("the last piece of this file is done")
        nonce = struct.pack(">xxxQB", self._number, last)
        associated = self._context + struct.pack(">QB", self._number, last)
        self._number, self._done = self._number + 1, last
        return nonce, associated


class Sealer(_Stream):
    """Seals one silo's file of one round; `bound_to` is opened with the same bytes or not at all."""

    __slots__ = ("_salt",)

    def __init__(self, key: Secret, silo: int, round_number: int, bound_to: bytes) -> None:
        self._salt = secrets.token_bytes(SALT_BYTES)
        super().__init__(key, self._salt, silo, round_number, bound_to)

    def seal(self, piece: bytes, *, last: bool) -> bytes:
        """The box of the next piece (up to `CHUNK_BYTES`); the first has the salt before it."""
        head = b"" if self._number else self._salt
        nonce, associated = self.next(last)
        return head + self._cipher.encrypt(nonce, piece, associated)


class Opener(Unpicklable):
    """Opens what `Sealer` made, box by box in order."""

    __slots__ = ("_bound_to", "_key", "_round", "_silo", "_stream")

    def __init__(self, key: Secret, silo: int, round_number: int, bound_to: bytes) -> None:
        self._key, self._silo, self._round, self._bound_to = key, silo, round_number, bound_to
        self._stream: _Stream | None = None

    def open(self, box: bytes, *, last: bool) -> bytes:
        """The piece in the next box. CheckpointError for anything but what `Sealer.seal` made there."""
        if self._stream is None:
            self._stream = _Stream(self._key, box[:SALT_BYTES], self._silo, self._round, self._bound_to)
            box = box[SALT_BYTES:]
        nonce, associated = self._stream.next(last)
        try:
            return self._stream._cipher.decrypt(nonce, box, associated)
        except InvalidTag:
            raise CheckpointError(
                f"the sealed copy of silo {self._silo}'s round {self._round} does not open: it was altered, "
                "is another silo's, round's or run's, or the key file is not the one it was"
            ) from None
