"""Pseudorandom generators: their names, keys and how far their streams reach."""

from __future__ import annotations

from typing import Literal, get_args

Prg = Literal["aes-128-ctr", "aes-256-ctr", "chacha20"]
"""Names of the generators: NIST SP 800-38A counter mode, and RFC 8439."""

Family = Literal["aes", "chacha"]
"""Ciphers: code that serves several generators."""

KEY_BYTES: dict[Prg, int] = {"aes-128-ctr": 16, "aes-256-ctr": 32, "chacha20": 32}
"""Length of a key of each generator."""

CHACHA_STREAM_BYTES = 64 << 32
"""Length of one ChaCha20 stream: 2^32 blocks of 64 bytes, 256 GiB."""


def family(prg: Prg) -> Family:
    """The cipher that `prg` runs on."""
    return "chacha" if prg == "chacha20" else "aes"


def check_key(prg: Prg, key: bytes, number: int = 0) -> None:
    """Refuse a key that `prg` does not take.

    Raises:
        ValueError: an unknown generator, or a key of the wrong length; the message holds no part of the key.
    """
    if prg not in get_args(Prg):
        raise ValueError(f"no generator {prg!r}; there are {', '.join(get_args(Prg))}")
    if len(key) != KEY_BYTES[prg]:
        raise ValueError(f"a key of {prg} has {KEY_BYTES[prg]} bytes; key {number} has {len(key)}")


def check_span(prg: Prg, start: int, nbytes: int) -> None:
    """Refuse positions that a stream does not have.

    Raises:
        ValueError: a negative position, or one past ChaCha20's 256 GiB (or 2^62 bytes of AES).
    """
    end = CHACHA_STREAM_BYTES if prg == "chacha20" else 1 << 62
    if start < 0 or start + nbytes > end:
        raise ValueError(
            f"bytes {start} to {start + nbytes} are not all within a {prg} stream of {end} bytes"
        )
