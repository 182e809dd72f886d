"""A seed that no silo chooses or foresees: each commits to a value, then all open theirs (Blum 1983).

The seed is a digest of all values. It is uniform to everybody but for one choice: the silo that opens last
has seen the others' values, and may fail to open its own. It is named then, or taken for dead and in no
bucket. One that commits to two values is convicted by its two signatures.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from silofl.crypto.framing import Reader
from silofl.crypto.identity import SIGNATURE_BYTES
from silofl.crypto.kdf import digest, pack_silos
from silofl.crypto.roster import Roster
from silofl.crypto.secagg.messages import SIGNED, Message, receive_signed, sign
from silofl.crypto.secagg.step3_mask import Masking
from silofl.errors import ProtocolError

VALUE_BYTES = 32
_VALUE = b"silofl/2 value of a joint seed\0"


@dataclass(frozen=True, slots=True)
class Commitment(Message):
    """What binds a silo to its value of the seed of one matter, and tells nothing of it; signed."""

    KIND: ClassVar[int] = 7
    matter: bytes
    commitment: bytes

    def _pack(self) -> bytes:
        return self.matter + self.commitment

    @classmethod
    def _read(cls, reader: Reader) -> tuple[Any, ...]:
        return reader.take(32), reader.take(VALUE_BYTES)


@dataclass(frozen=True, slots=True)
class SeedValue(Message):
    """A silo's value, and a digest (32 bytes) of the commitments that it was given before; signed."""

    KIND: ClassVar[int] = 8
    heard: bytes
    value: bytes

    def _pack(self) -> bytes:
        return self.heard + self.value

    @classmethod
    def _read(cls, reader: Reader) -> tuple[Any, ...]:
        return reader.take(32), reader.take(VALUE_BYTES)


def commit(stage: Masking, matter: bytes) -> bytes:
    """This silo's commitment to its value of the seed of one `matter` (a digest, 32 bytes), for everybody.

    The value is a function of its signing key and the matter, so that a run that is resumed draws as it would
    have: a digest of an Ed25519 signature (RFC 8032, which has no randomness) that is shown to nobody.
    """
    context = stage.party.context
    own = _committed(stage.me, matter, _own(stage, matter))
    message = Commitment(context.session, context.number, stage.me, matter, own)
    return sign(message, stage.party.identity)


def disclose(
    stage: Masking, matter: bytes, silos: Collection[int], commitments: Mapping[int, bytes]
) -> bytes:
    """This silo's value, for everybody, once it has all commitments. ProtocolError names a silo without."""
    heard = _heard(commitments_of(stage, matter, silos, commitments))
    context = stage.party.context
    message = SeedValue(context.session, context.number, stage.me, heard, _own(stage, matter))
    return sign(message, stage.party.identity)


def joint_seed(
    stage: Masking,
    matter: bytes,
    silos: Collection[int],
    commitments: Mapping[int, bytes],
    disclosed: Mapping[int, bytes],
) -> bytes:
    """The seed (32 bytes) of all `silos`' values.

    ProtocolError names a silo that committed to a value and opened none, or another, or was given other
    commitments than this silo.
    """
    committed, context = commitments_of(stage, matter, silos, commitments), stage.party.context
    heard, values = _heard(committed), list[bytes]()
    for silo in sorted(silos):
        if silo not in disclosed:
            raise ProtocolError(
                f"silo {silo} committed to a value of the seed that draws buckets, and does not open it: "
                "nothing was added up",
                sender=silo,
            )
        told = receive_signed(SeedValue, disclosed[silo], context, silo)
        if told.heard != heard:
            raise ProtocolError(f"silo {silo} was given other commitments than this silo", sender=silo)
        if _committed(silo, matter, told.value) != committed[silo]:
            raise ProtocolError(
                f"silo {silo} opens another value of the seed that draws buckets than it committed to: "
                "nothing was added up",
                sender=silo,
            )
        values.append(told.value)
    return digest("joint seed", matter, *values)


def _own(stage: Masking, matter: bytes) -> bytes:
    return digest("value of a joint seed", stage.party.identity.sign(_VALUE + matter))


def _committed(silo: int, matter: bytes, value: bytes) -> bytes:
    return digest("commitment to a value", matter, pack_silos((silo,)), value)


def commitments_of(
    stage: Masking, matter: bytes, silos: Collection[int], told: Mapping[int, bytes]
) -> dict[int, bytes]:
    """By silo, ascending, its commitment (32 bytes). ProtocolError names one of `silos` that has none."""
    found = dict[int, bytes]()
    for silo in sorted(silos):
        if silo not in told:
            raise ProtocolError(
                f"silo {silo} commits to no value of the seed that draws buckets", sender=silo
            )
        message = receive_signed(Commitment, told[silo], stage.party.context, silo)
        if message.matter != matter:
            raise ProtocolError(f"silo {silo}'s commitment is refused: it is of another draw", sender=silo)
        found[silo] = message.commitment
    return found


def heard_otherwise(
    stage: Masking,
    matter: bytes,
    silos: Collection[int],
    commitments: Mapping[int, bytes],
    disclosed: Mapping[int, bytes],
) -> bool:
    """Whether some silo that opened its value says that it was given other commitments than this silo."""
    heard, context = _heard(commitments_of(stage, matter, silos, commitments)), stage.party.context
    told = (receive_signed(SeedValue, disclosed[silo], context, silo) for silo in silos if silo in disclosed)
    return any(one.heard != heard for one in told)


def says_the_same(silo: int, first: bytes, second: bytes) -> bool:
    """Whether two messages of a silo commit it to one value; signatures are not looked at."""
    try:
        one, other = (Commitment.decode(data[:-SIGNATURE_BYTES], silo) for data in (first, second))
    except ProtocolError:
        return False
    return (one.sender, one.matter, one.commitment) == (other.sender, other.matter, other.commitment)


def is_double(roster: Roster, silo: int, first: bytes, second: bytes) -> bool:
    """Whether a silo signed two messages that commit it to two values of one matter; of any sessions."""
    found = list[Commitment]()
    for data in (first, second):
        content, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
        if not 0 <= silo < len(roster) or not roster.verify(silo, signature, SIGNED + content):
            return False
        try:
            found.append(Commitment.decode(content, silo))
        except ProtocolError:
            return False
    one, other = found
    of_silo = one.sender == other.sender == silo
    return of_silo and one.matter == other.matter and one.commitment != other.commitment


def _heard(commitments: Mapping[int, bytes]) -> bytes:
    return digest("commitments", pack_silos(tuple(commitments)), *commitments.values())
