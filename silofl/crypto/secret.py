"""Bytes that must never be printed, compared in variable time, copied or pickled."""

from __future__ import annotations

import hmac
from typing import NoReturn, SupportsIndex


class Secret:
    """Key material. Its repr, str, format and vars show a length and nothing else.

    `expose()` is the only way to the bytes, so that every use can be found by its name.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def expose(self) -> bytes:
        """The bytes themselves: for a cipher, a key derivation or a sealed message."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a hash of a secret would be a fingerprint of it

    def __repr__(self) -> str:
        return f"Secret({len(self._value)} bytes)"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a secret is never pickled or copied")


class Unpicklable:
    """A base for objects that hold secrets or a one-use state: pickling and copying are refused."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds secrets: it is never pickled or copied")
