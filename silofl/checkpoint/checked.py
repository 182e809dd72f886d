"""Numbers and digits that a peer or a file states: what they must be, or one refusal."""

from __future__ import annotations

import re
from typing import Any

from silofl.errors import CheckpointError, ProtocolError

MOST = (1 << 53) - 1
"""The largest number that every JSON reader keeps."""


def whole(value: Any, what: str, least: int = 0, most: int = MOST) -> int:
    """An integer in least..most. CheckpointError, which does not quote the value, for anything else."""
    if type(value) is not int or not least <= value <= most:
        raise CheckpointError(f"{what} is not an integer from {least} to {most}")
    return value


def hexadecimal(value: Any, what: str, length: int) -> str:
    """`length` bytes as lowercase hexadecimal digits. CheckpointError for anything else."""
    if not isinstance(value, str) or re.fullmatch(f"[0-9a-f]{{{2 * length}}}", value) is None:
        raise CheckpointError(f"{what} is not {2 * length} hexadecimal digits")
    return value


def each(value: Any, what: str) -> list[Any]:
    """A list. CheckpointError for anything else."""
    if not isinstance(value, list):
        raise CheckpointError(f"{what} is not a list")
    return value


def named(value: Any, what: str) -> dict[str, Any]:
    """A table. CheckpointError for anything else."""
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} is not a table")
    return value


def refused(silo: int, why: object) -> ProtocolError:
    """The error for a message of a silo, the same on every rank."""
    return ProtocolError(f"silo {silo}'s message about checkpoints is refused: {why}", sender=silo, rank=0)
