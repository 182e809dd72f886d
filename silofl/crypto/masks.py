"""What the crypto tells the kernels: which keystreams to add to a vector and which to take away.

Keystream bytes of key K: AES in counter mode (SP 800-38A) with a 16-byte big-endian block counter from 0, or
ChaCha20 (RFC 8439) with a zero nonce and a block counter from 0. Element e of a B-bit vector is masked by
bytes e*B/8 to (e+1)*B/8 of the keystream, little-endian.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from silofl.crypto.kdf import hkdf, key_info
from silofl.crypto.secret import Secret, Unpicklable

Prg = Literal["aes-128-ctr", "aes-256-ctr", "chacha20"]
PRG_KEY_BYTES: dict[Prg, int] = {"aes-128-ctr": 16, "aes-256-ctr": 32, "chacha20": 32}
Sign = Literal[1, -1]


@dataclass(frozen=True, slots=True, repr=False)
class MaskKeys(Unpicklable):
    """Keystreams of one kind, each with the sign (+1, -1) with which it is added in the ring."""

    prg: Prg
    keys: tuple[Secret, ...]
    signs: tuple[Sign, ...]
    silos: tuple[tuple[int, ...], ...] = ()
    """Of each keystream the silo whose self mask it is, or the pair that has it; empty where nobody asks."""

    def within(self, silos: Collection[int]) -> MaskKeys:
        """Those that are of `silos` alone: masks of a sum over these, whatever is added up elsewhere."""
        kept = [place for place, whose in enumerate(self.silos) if set(whose) <= set(silos)]
        keys, signs, whose = (tuple(one[k] for k in kept) for one in (self.keys, self.signs, self.silos))
        return MaskKeys(self.prg, keys, signs, whose)  # type: ignore[arg-type]

    def expose(self) -> list[bytes]:
        """The raw keys, to hand to a kernel (`MaskSet(m.prg, m.expose(), m.signs)`) and keep nowhere."""
        return [key.expose() for key in self.keys]

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"MaskKeys({len(self.keys)} of {self.prg}, {self.signs.count(1)} added)"


def mask_keys(
    prg: Prg, pairs: Sequence[tuple[Secret, Sign]], silos: Sequence[tuple[int, ...]] = ()
) -> MaskKeys:
    """Gather keys and signs, with whose they are where that is asked."""
    return MaskKeys(prg, tuple(key for key, _ in pairs), tuple(sign for _, sign in pairs), tuple(silos))


def mask_key(
    prg: Prg, secret: Secret, purpose: str, session: bytes, number: int, *silos: int, salt: bytes
) -> Secret:
    """The keystream's key for one purpose, session, round and silo (or pair, the lower number first)."""
    info = key_info(f"{purpose} {prg}", session, number, *silos)
    return hkdf(secret, PRG_KEY_BYTES[prg], salt=salt, info=info)


def flipped(sign: Sign) -> Sign:
    """The other sign."""
    return -1 if sign == 1 else 1
