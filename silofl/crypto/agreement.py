"""X25519 key agreement (RFC 7748); a shared secret of all zeros is refused (section 6.1)."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from silofl.crypto.secret import Secret, Unpicklable
from silofl.errors import ProtocolError

KEY_BYTES = 32


class KeyPair(Unpicklable):
    """An X25519 key pair made for one round and one purpose."""

    __slots__ = ("_private", "private", "public")

    def __init__(self, private: Secret) -> None:
        self.private = private
        """The 32 bytes of the secret key; what Shamir sharing splits."""
        self._private = X25519PrivateKey.from_private_bytes(private.expose())
        self.public = self._private.public_key().public_bytes_raw()
        """The 32 bytes of the public key."""

    @classmethod
    def from_private_bytes(cls, private: Secret) -> KeyPair:
        """The pair of a given secret key (32 bytes); ProtocolError for another length."""
        if len(private) != KEY_BYTES:
            raise ProtocolError(f"an X25519 secret key has {KEY_BYTES} bytes, not {len(private)}")
        return cls(private)

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public.hex()})"

    def agree(self, peer: bytes, *, sender: int | None = None) -> Secret:
        """The secret shared with the owner of the public key `peer` (32 bytes), not yet fit as a key.

        ProtocolError, naming `sender`, when `peer` has a wrong length or forces the all-zero secret.
        """
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:
            shared = bytes(KEY_BYTES)
        if hmac.compare_digest(shared, bytes(KEY_BYTES)):
            raise ProtocolError(f"{_whose(sender)} X25519 public key gives no secret", sender=sender)
        return Secret(shared)


def _whose(sender: int | None) -> str:
    return "an" if sender is None else f"silo {sender}'s"
