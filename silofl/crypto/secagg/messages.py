"""The messages of a round. Each has a fixed layout behind `wire`'s header; `docs/protocol.md` shows them.

`encode` gives the bytes that are signed; `decode` accepts exactly those, whole. `post` appends the sender's
Ed25519 signature (64 bytes), `receive` checks it with everything else that a message must be.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, TypeVar

from silofl.crypto.identity import SIGNATURE_BYTES, Identity
from silofl.crypto.secagg.rules import Round
from silofl.crypto.secret import Secret
from silofl.crypto.shamir import SHARE_BYTES
from silofl.crypto.wire import HEADER, Reader, pack_header, pack_set
from silofl.errors import ProtocolError

SEED_SHARE = 1
"""A share of the self-mask seed b_i: opened for survivors."""
KEY_SHARE = 2
"""A share of the X25519 secret key behind the pair masks: opened for the lost."""
SHARE_DIGEST_BYTES = 16
_SIGNED = b"silofl/1 signed message\0"


@dataclass(frozen=True, slots=True)
class Advert:
    """Step 1: fresh public keys, and digests of all that the silos must have in common."""

    KIND: ClassVar[int] = 1
    session: bytes
    number: int
    sender: int
    roster: bytes
    config: bytes
    terms: bytes
    mask_public: bytes
    seal_public: bytes

    def encode(self) -> bytes:
        """Header and five fields of 32 bytes."""
        header = pack_header(self.KIND, self.session, self.number, self.sender)
        return header + self.roster + self.config + self.terms + self.mask_public + self.seal_public

    @classmethod
    def decode(cls, data: bytes, sender: int) -> Self:
        """The advert in `data`; ProtocolError, naming `sender`, for anything else."""
        reader = Reader(data, sender)
        session, number, silo = reader.header(cls.KIND)
        message = cls(session, number, silo, *(reader.take(32) for _ in range(5)))
        reader.end()
        return message


@dataclass(frozen=True, slots=True)
class Deal:
    """Step 2: commitments to this silo's seed and to every share of its two secrets, one row a holder.

    The shares themselves follow the signed part, sealed to one receiver.
    """

    KIND: ClassVar[int] = 2
    session: bytes
    number: int
    sender: int
    adverts: bytes
    seed_commitment: bytes
    shares: tuple[tuple[int, bytes, bytes], ...]
    """(holder, digest of its share of the seed, digest of its share of the key), holders ascending."""

    def encode(self) -> bytes:
        """Header, two digests of 32 bytes, a count (2) and per holder its number (4) and two digests (16)."""
        rows = b"".join(struct.pack(">I", holder) + seed + key for holder, seed, key in self.shares)
        header = pack_header(self.KIND, self.session, self.number, self.sender)
        return header + self.adverts + self.seed_commitment + struct.pack(">H", len(self.shares)) + rows

    def digests(self) -> dict[int, tuple[bytes, bytes]]:
        """By holder: the digests of its shares of the seed and of the key."""
        return {holder: (seed, key) for holder, seed, key in self.shares}

    @staticmethod
    def signed_bytes(packet: bytes) -> int:
        """How many bytes of a packet are the deal and its signature, by the count that it states."""
        fixed = HEADER.size + 64
        rows = int.from_bytes(packet[fixed : fixed + 2])
        return fixed + 2 + rows * (4 + 2 * SHARE_DIGEST_BYTES) + SIGNATURE_BYTES

    @classmethod
    def decode(cls, data: bytes, sender: int) -> Self:
        """The deal in `data`; ProtocolError, naming `sender`, for anything else."""
        reader = Reader(data, sender)
        session, number, silo = reader.header(cls.KIND)
        adverts, commitment = reader.take(32), reader.take(32)
        rows = tuple(_share_row(reader) for _ in range(reader.number(2)))
        reader.end()
        return cls(session, number, silo, adverts, commitment, rows)


def _share_row(reader: Reader) -> tuple[int, bytes, bytes]:
    return reader.number(4), reader.take(SHARE_DIGEST_BYTES), reader.take(SHARE_DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Pledge:
    """Step 3: this silo masks `length` words of `bits` bits by the keys of this transcript."""

    KIND: ClassVar[int] = 3
    session: bytes
    number: int
    sender: int
    transcript: bytes
    bits: int
    length: int

    def encode(self) -> bytes:
        """Header, digest (32), bits (1) and length (8)."""
        header = pack_header(self.KIND, self.session, self.number, self.sender)
        return header + self.transcript + struct.pack(">BQ", self.bits, self.length)

    @classmethod
    def decode(cls, data: bytes, sender: int) -> Self:
        """The pledge in `data`; ProtocolError, naming `sender`, for anything else."""
        reader = Reader(data, sender)
        session, number, silo = reader.header(cls.KIND)
        message = cls(session, number, silo, reader.take(32), reader.number(1), reader.number(8))
        reader.end()
        return message


@dataclass(frozen=True, slots=True)
class Vote:
    """Step 5: the one set of survivors over which this silo will help to open the sum."""

    KIND: ClassVar[int] = 4
    session: bytes
    number: int
    sender: int
    transcript: bytes
    survivors: frozenset[int]

    def encode(self) -> bytes:
        """Header, digest (32) and the set (length in 2 bytes, bitmap)."""
        header = pack_header(self.KIND, self.session, self.number, self.sender)
        return header + self.transcript + pack_set(self.survivors)

    @classmethod
    def decode(cls, data: bytes, sender: int) -> Self:
        """The vote in `data`; ProtocolError, naming `sender`, for anything else."""
        reader = Reader(data, sender)
        session, number, silo = reader.header(cls.KIND)
        message = cls(session, number, silo, reader.take(32), reader.silos())
        reader.end()
        return message


@dataclass(frozen=True, slots=True)
class Reveal:
    """Step 6: for every silo whose shares this one holds, the one that the survivors' set calls for."""

    KIND: ClassVar[int] = 5
    session: bytes
    number: int
    sender: int
    transcript: bytes
    shares: tuple[tuple[int, int, Secret], ...]
    """(dealer, SEED_SHARE or KEY_SHARE, the share), dealers ascending."""

    def encode(self) -> bytes:
        """Header, digest (32), a count (2) and per share its dealer (4), kind (1) and value (66)."""
        rows = b"".join(
            struct.pack(">IB", dealer, kind) + share.expose() for dealer, kind, share in self.shares
        )
        header = pack_header(self.KIND, self.session, self.number, self.sender)
        return header + self.transcript + struct.pack(">H", len(self.shares)) + rows

    @classmethod
    def decode(cls, data: bytes, sender: int) -> Self:
        """The reveal in `data`; ProtocolError, naming `sender`, for anything else."""
        reader = Reader(data, sender)
        session, number, silo = reader.header(cls.KIND)
        transcript = reader.take(32)
        shares = tuple(_revealed(reader) for _ in range(reader.number(2)))
        reader.end()
        return cls(session, number, silo, transcript, shares)


def _revealed(reader: Reader) -> tuple[int, int, Secret]:
    return reader.number(4), reader.number(1), Secret(reader.take(SHARE_BYTES))


@dataclass(frozen=True, slots=True)
class SeedDeal:
    """The protocol `additive`: what is signed beside the one seed sealed to a member of the committee."""

    KIND: ClassVar[int] = 6
    session: bytes
    number: int
    sender: int
    adverts: bytes
    committee: frozenset[int]

    def encode(self) -> bytes:
        """Header, digest of the adverts (32) and the committee (length in 2 bytes, bitmap)."""
        header = pack_header(self.KIND, self.session, self.number, self.sender)
        return header + self.adverts + pack_set(self.committee)

    @classmethod
    def decode(cls, data: bytes, sender: int) -> Self:
        """The deal in `data`; ProtocolError, naming `sender`, for anything else."""
        reader = Reader(data, sender)
        session, number, silo = reader.header(cls.KIND)
        message = cls(session, number, silo, reader.take(32), reader.silos())
        reader.end()
        return message


class Message(Protocol):
    """What they all have in common."""

    @property
    def session(self) -> bytes:
        """The run that it belongs to."""

    @property
    def number(self) -> int:
        """The round that it belongs to."""

    @property
    def sender(self) -> int:
        """The silo that it says it is from."""

    def encode(self) -> bytes:
        """The bytes that are signed."""

    @classmethod
    def decode(cls, data: bytes, sender: int) -> Self:
        """The message in these bytes."""


AnyMessage = TypeVar("AnyMessage", bound=Message)


def post(message: Message, identity: Identity) -> bytes:
    """The message as it travels: its bytes and the sender's signature of them."""
    data = message.encode()
    return data + identity.sign(_SIGNED + data)


def receive(kind: type[AnyMessage], data: bytes, context: Round, sender: int) -> AnyMessage:
    """The message that silo `sender` delivered in this round.

    ProtocolError, naming `sender`, when it is malformed, of another kind, session, round or silo, or not
    signed by that silo.
    """
    signed, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    message = kind.decode(signed, sender)
    if message.sender != sender:
        why = f"it says that it is from silo {message.sender}"
    elif message.session != context.session:
        why = "it belongs to another session"
    elif message.number != context.number:
        why = f"it belongs to round {message.number}, not {context.number}"
    elif not context.roster.verify(sender, signature, _SIGNED + signed):
        why = "its signature is not that of the silo in the roster"
    else:
        return message
    raise ProtocolError(f"silo {sender}'s {kind.__name__.lower()} is refused: {why}", sender=sender)
