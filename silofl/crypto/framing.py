"""The layout of messages: a fixed header, big-endian integers, nothing optional and nothing left over.

| bytes | field |
|---|---|
| 3 | `SFL` |
| 1 | version of the protocol, 2 |
| 1 | kind of message |
| 16 | session |
| 8 | round |
| 4 | the sender's silo number |
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Self

from silofl.errors import ProtocolError

MAGIC = b"SFL"
VERSION = 2
HEADER = struct.Struct(">3sBB16sQI")
MOST_SILOS = 1 << 16


class Reader:
    """Takes a message apart from front to back. Every ProtocolError names the silo that delivered it."""

    def __init__(self, data: bytes, sender: int) -> None:
        self._data = data
        self._place = 0
        self._sender = sender

    def refuse(self, why: str) -> ProtocolError:
        """The error to raise for this message."""
        return ProtocolError(f"silo {self._sender}'s message is refused: {why}", sender=self._sender)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self._place + count
        if end > len(self._data):
            raise self.refuse("it is truncated")
        part, self._place = self._data[self._place : end], end
        return part

    def number(self, size: int) -> int:
        """The next `size` bytes as an unsigned integer."""
        return int.from_bytes(self.take(size))

    def rows(self, layout: struct.Struct) -> Iterator[tuple[Any, ...]]:
        """The rows behind a count of 2 bytes, each of this layout."""
        return layout.iter_unpack(self.take(self.number(2) * layout.size))

    def silos(self) -> frozenset[int]:
        """A set of silos written by `pack_set`; only its one shortest form is accepted."""
        count = self.number(2)
        if count > MOST_SILOS // 8:
            raise self.refuse(f"its set has {count} bytes, of {MOST_SILOS} silos at most")
        bitmap = self.take(count)
        if bitmap[-1:] == b"\0":
            raise self.refuse("its set of silos is padded")
        return frozenset(
            8 * place + bit for place, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1
        )

    def end(self) -> None:
        """Refuse a message that has more bytes."""
        if self._place != len(self._data):
            raise self.refuse(f"it has {len(self._data) - self._place} bytes too many")

    def header(self, kind: int) -> tuple[bytes, int, int]:
        """Session, round and sender's number as the message states them."""
        magic, version, found, session, number, silo = HEADER.unpack(self.take(HEADER.size))
        if magic != MAGIC or version != VERSION:
            raise self.refuse(f"it is not in version {VERSION} of the protocol")
        if found != kind:
            raise self.refuse(f"it is of kind {found} where kind {kind} is due")
        return session, number, silo


def pack_header(kind: int, session: bytes, number: int, sender: int) -> bytes:
    """The 33 bytes that open every message."""
    return HEADER.pack(MAGIC, VERSION, kind, session, number, sender)


def pack_set(silos: Collection[int]) -> bytes:
    """A set of silos: 2 bytes of length and a bitmap: bit k of byte j is silo 8j + k, no zeros at the end."""
    value = sum(1 << silo for silo in set(silos))
    bitmap = value.to_bytes((value.bit_length() + 7) // 8, "little")
    return struct.pack(">H", len(bitmap)) + bitmap


class Inbox(dict[int, bytes]):
    """What arrived, by the silo that delivered it."""

    @classmethod
    def of(cls, payloads: Sequence[bytes], silos: Sequence[int] | None = None) -> Self:
        """From a collective's result in rank order; `silos[rank]` is the rank's silo number (default: rank).

        Empty payloads are left out: their silos sent nothing.
        """
        numbers = range(len(payloads)) if silos is None else silos
        return cls({silo: payload for silo, payload in zip(numbers, payloads, strict=True) if payload})


def outbox(packets: Mapping[int, bytes], silos: Sequence[int]) -> list[bytes]:
    """Packets by silo as the list that an alltoall takes, in rank order; b"" where there is none."""
    return [packets.get(silo, b"") for silo in silos]
