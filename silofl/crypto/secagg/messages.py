"""The messages of a round. Each has a fixed layout behind `wire`'s header; `docs/protocol.md` shows them.

`encode` gives a message's bytes; `decode` accepts exactly those, whole. `receive` checks that it belongs to
this round and states its true sender. Adverts and votes are signed: `sign` appends the sender's Ed25519
signature (64 bytes), `receive_signed` checks it. A deal is authenticated by the box that it travels with, a
share that is told by its dealer's commitment to it.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, TypeVar

from silofl.crypto.framing import Reader, pack_header, pack_set
from silofl.crypto.identity import SIGNATURE_BYTES, Identity
from silofl.crypto.secagg.inputs import INPUT_BYTES, SumInputs
from silofl.crypto.secagg.rules import Round
from silofl.crypto.secret import Secret
from silofl.crypto.shamir import SHARE_BYTES
from silofl.errors import ProtocolError

SEED_SHARE = 1
"""A share of the self-mask seed b_i: opened for survivors."""
KEY_SHARE = 2
"""A share of the X25519 secret key behind the pair masks: opened for the lost."""
SHARE_DIGEST_BYTES = 16
_COMMITTED = struct.Struct(f">I{SHARE_DIGEST_BYTES}s{SHARE_DIGEST_BYTES}s")
_TOLD = struct.Struct(f">IB{SHARE_BYTES}s")
SIGNED = b"silofl/2 signed message\0"
"""Before every message that is signed."""


@dataclass(frozen=True, slots=True)
class Message(ABC):
    """What all messages have in common: the run, the round and the silo that they say they are from."""

    KIND: ClassVar[int]
    session: bytes
    number: int
    sender: int

    def encode(self) -> bytes:
        """`wire`'s header, then the message's own fields."""
        return pack_header(self.KIND, self.session, self.number, self.sender) + self._pack()

    @classmethod
    def decode(cls, data: bytes, sender: int) -> Self:
        """The message in `data`; ProtocolError, naming `sender`, for anything else."""
        reader = Reader(data, sender)
        message = cls(*reader.header(cls.KIND), *cls._read(reader))
        reader.end()
        return message

    @abstractmethod
    def _pack(self) -> bytes:
        """Its own fields' bytes."""

    @classmethod
    @abstractmethod
    def _read(cls, reader: Reader) -> tuple[Any, ...]:
        """Its own fields, in their order."""


@dataclass(frozen=True, slots=True)
class Advert(Message):
    """Step 1: fresh public keys, and digests of all that the silos must have in common: 32 bytes each."""

    KIND: ClassVar[int] = 1
    roster: bytes
    config: bytes
    terms: bytes
    mask_public: bytes
    seal_public: bytes

    def _pack(self) -> bytes:
        return self.roster + self.config + self.terms + self.mask_public + self.seal_public

    @classmethod
    def _read(cls, reader: Reader) -> tuple[Any, ...]:
        return tuple(reader.take(32) for _ in range(5))


@dataclass(frozen=True, slots=True)
class Deal(Message):
    """Step 2: commitments to this silo's seed and to every share of its two secrets, one row a holder.

    The shares themselves follow, sealed to one receiver; the box binds the deal as its associated data.
    """

    KIND: ClassVar[int] = 2
    adverts: bytes
    seed_commitment: bytes
    shares: tuple[tuple[int, bytes, bytes], ...]
    """(holder, digest of its share of the seed, digest of its share of the key), holders ascending."""

    def digests(self) -> dict[int, tuple[bytes, bytes]]:
        """By holder: the digests of its shares of the seed and of the key."""
        return {holder: (seed, key) for holder, seed, key in self.shares}

    def _pack(self) -> bytes:
        rows = b"".join([_COMMITTED.pack(*row) for row in self.shares])
        return self.adverts + self.seed_commitment + struct.pack(">H", len(self.shares)) + rows

    @classmethod
    def _read(cls, reader: Reader) -> tuple[Any, ...]:
        return reader.take(32), reader.take(32), tuple(reader.rows(_COMMITTED))


@dataclass(frozen=True, slots=True)
class Vote(Message):
    """Step 5: what this silo masked, and the one set of survivors over which it will help to open the sum."""

    # It is signed: nobody can show a silo other inputs than the voter's own.

    KIND: ClassVar[int] = 3
    transcript: bytes
    bits: int
    length: int
    survivors: frozenset[int]
    inputs: SumInputs
    heard: bytes
    """Digest (32 bytes) of all small sums of the round up to here, as this silo computed them."""

    def _pack(self) -> bytes:
        masked = self.transcript + struct.pack(">BQ", self.bits, self.length)
        return masked + pack_set(self.survivors) + b"".join(self.inputs.parts) + self.heard

    @classmethod
    def _read(cls, reader: Reader) -> tuple[Any, ...]:
        masked = reader.take(32), reader.number(1), reader.number(8), reader.silos()
        inputs = SumInputs(*(reader.take(INPUT_BYTES) for _ in fields(SumInputs)))
        return *masked, inputs, reader.take(32)


@dataclass(frozen=True, slots=True)
class Reveal(Message):
    """Step 6: for every silo whose shares this one holds, the one that the survivors' set calls for."""

    KIND: ClassVar[int] = 4
    transcript: bytes
    shares: tuple[tuple[int, int, Secret], ...]
    """(dealer, SEED_SHARE or KEY_SHARE, the share), dealers ascending."""

    def _pack(self) -> bytes:
        rows = b"".join([_TOLD.pack(dealer, kind, share.expose()) for dealer, kind, share in self.shares])
        return self.transcript + struct.pack(">H", len(self.shares)) + rows

    @classmethod
    def _read(cls, reader: Reader) -> tuple[Any, ...]:
        transcript, rows = reader.take(32), reader.rows(_TOLD)
        return transcript, tuple((dealer, kind, Secret(value)) for dealer, kind, value in rows)


@dataclass(frozen=True, slots=True)
class SeedDeal(Message):
    """The protocol `additive`: what the box with the seed for a member of the committee is bound to."""

    KIND: ClassVar[int] = 5
    adverts: bytes
    committee: frozenset[int]

    def _pack(self) -> bytes:
        return self.adverts + pack_set(self.committee)

    @classmethod
    def _read(cls, reader: Reader) -> tuple[Any, ...]:
        return reader.take(32), reader.silos()


@dataclass(frozen=True, slots=True)
class Statement(Message):
    """What decides the sum, as this silo has it: by `additive` before a word of it is sent, by `secagg` where
    ranges came out as noise."""

    KIND: ClassVar[int] = 6
    adverts: bytes
    inputs: SumInputs
    heard: bytes
    """Digest (32 bytes) of all small sums of the round up to here, as this silo computed them."""

    def _pack(self) -> bytes:
        return self.adverts + b"".join(self.inputs.parts) + self.heard

    @classmethod
    def _read(cls, reader: Reader) -> tuple[Any, ...]:
        adverts = reader.take(32)
        inputs = SumInputs(*(reader.take(INPUT_BYTES) for _ in fields(SumInputs)))
        return adverts, inputs, reader.take(32)


AnyMessage = TypeVar("AnyMessage", bound=Message)


def sign(message: Message, identity: Identity) -> bytes:
    """The message as it travels when it is signed: its bytes and the sender's signature of them."""
    data = message.encode()
    return data + identity.sign(SIGNED + data)


def receive(kind: type[AnyMessage], data: bytes, context: Round, sender: int) -> AnyMessage:
    """The message that silo `sender` delivered in this round, not yet authenticated.

    ProtocolError, naming `sender`, when it is malformed, or of another kind, session, round or silo.
    """
    message = kind.decode(data, sender)
    if message.sender != sender:
        raise _refusal(kind, sender, f"it says that it is from silo {message.sender}")
    if message.session != context.session:
        raise _refusal(kind, sender, "it belongs to another session")
    if message.number != context.number:
        raise _refusal(kind, sender, f"it belongs to round {message.number}, not {context.number}")
    return message


def receive_signed(kind: type[AnyMessage], data: bytes, context: Round, sender: int) -> AnyMessage:
    """`receive` for a signed message; ProtocolError also when that silo of the roster did not sign it.

    The signature comes first: what nobody signed is not worth reading.
    """
    content, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    if not context.roster.verify(sender, signature, SIGNED + content):
        raise _refusal(kind, sender, "its signature is not that of the silo in the roster")
    return receive(kind, content, context, sender)


def _refusal(kind: type[Message], sender: int, why: str) -> ProtocolError:
    return ProtocolError(f"silo {sender}'s {kind.__name__.lower()} is refused: {why}", sender=sender)
