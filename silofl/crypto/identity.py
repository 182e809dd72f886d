"""Ed25519 identities (RFC 8032): the long-lived key with which an institution signs its messages."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from silofl.crypto.key_file import read_secret
from silofl.crypto.secret import Unpicklable
from silofl.errors import ConfigError, StorageError

PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64


class Identity(Unpicklable):
    """An institution's signing key. Prints its public key only."""

    __slots__ = ("_private", "public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()
        """The 32 bytes that stand in the roster."""

    @classmethod
    def generate(cls) -> Identity:
        """A fresh identity from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, seed: bytes) -> Identity:
        """The identity of a given 32-byte seed (RFC 8032, section 5.1.5); derived or known."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None = None) -> Identity:
        """Read a private key file (PEM, PKCS 8).

        ConfigError when it is missing, a link, readable by others than its owner, no Ed25519 key, or its
        passphrase is missing or wrong.
        """
        content = read_secret(path, "the private key")
        try:
            key = serialization.load_pem_private_key(content, passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # TypeError: a passphrase is missing or given in vain. The cause may quote the input: dropped.
            raise ConfigError(f"{path} is not a key that this passphrase opens") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path} does not hold an Ed25519 private key; make one with `silofl keygen`")
        return cls(key)

    def save(self, path: Path, passphrase: bytes | None = None) -> None:
        """Write the private key (PEM, PKCS 8, mode 0600, encrypted under `passphrase` if one is given).

        ConfigError when `path` exists: a key is never overwritten. StorageError when it cannot be written.
        """
        pem = self.to_pem(passphrase)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise ConfigError(f"{path} exists already; a private key is never overwritten") from None
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())

    def to_pem(self, passphrase: bytes | None = None) -> bytes:
        """The private key (PEM, PKCS 8, encrypted under `passphrase` if one is given): for a private file."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase)
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )

    def sign(self, message: bytes) -> bytes:
        """The signature (64 bytes) of `message`."""
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"Identity(public={self.public.hex()})"


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (64 bytes) is that of the owner of `public` (32 bytes) on `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def read_passphrase(path: Path) -> bytes:
    """The first line of a file that its owner alone may read. ConfigError where there is none."""
    try:
        return read_secret(path, "the passphrase file").splitlines()[0]
    except IndexError:
        raise ConfigError(f"{path} has no passphrase in its first line") from None
