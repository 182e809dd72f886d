"""Sealing: ChaCha20-Poly1305 (RFC 8439) under a key for one round, one sender and one receiver.

ChaCha20-Poly1305 and not AES-GCM: it runs in constant time on processors without AES units too, and a box
is 160 bytes, so speed does not matter. The key is fresh every round and the nonce random, so that even a
box made twice leaks nothing.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from silofl.crypto.kdf import hkdf, key_info, pack_fields, pack_silos
from silofl.crypto.secret import Secret
from silofl.errors import ProtocolError

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD = NONCE_BYTES + TAG_BYTES


def sealing_key(
    shared: Secret, session: bytes, number: int, sender: int, receiver: int, *, salt: bytes
) -> Secret:
    """The key (32 bytes) of boxes from `sender` to `receiver` in this round; the way back has another."""
    return hkdf(shared, KEY_BYTES, salt=salt, info=key_info("seal", session, number, sender, receiver))


def associated_data(session: bytes, number: int, sender: int, receiver: int, public: bytes) -> bytes:
    """What a box is bound to: session, round, sender, receiver and the signed bytes it travels with."""
    return pack_fields(session, number.to_bytes(8, "big"), pack_silos((sender, receiver)), public)


def seal(key: Secret, plain: Secret, associated: bytes, nonce: bytes) -> bytes:
    """nonce (12 bytes) and ciphertext with its tag; `OVERHEAD` bytes longer than `plain`."""
    return nonce + ChaCha20Poly1305(key.expose()).encrypt(nonce, plain.expose(), associated)


def unseal(key: Secret, box: bytes, associated: bytes, *, sender: int) -> Secret:
    """The plaintext of `box`; ProtocolError, naming `sender`, for anything but what `seal` made."""
    if len(box) < OVERHEAD:
        raise ProtocolError(f"silo {sender}'s sealed shares are cut short", sender=sender)
    try:
        plain = ChaCha20Poly1305(key.expose()).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], associated)
    except InvalidTag:
        message = f"silo {sender}'s sealed shares do not open: altered, or sealed for another silo or round"
        raise ProtocolError(message, sender=sender) from None
    return Secret(plain)
