"""Names in a checkpoint folder: no other is opened, written or removed, even where a peer states it."""

from __future__ import annotations

import re

MANIFEST = "manifest.json"


def round_name(round_number: int) -> str:
    """The folder of a round."""
    return f"round-{round_number:06d}"


def stem(silo: int) -> str:
    """What the names of a silo's files begin with."""
    return f"silo-{silo:04d}"


def state_name(silo: int, attempt: int) -> str:
    """A silo's file of one attempt at a round."""
    return f"{stem(silo)}{f'.{attempt}' if attempt else ''}.safetensors"


def is_state_name(name: object, silo: int) -> bool:
    """Whether this is a `state_name` of this silo, to the letter."""
    pattern = rf"{stem(silo)}(\.[1-9][0-9]{{0,8}})?\.safetensors"
    return isinstance(name, str) and re.fullmatch(pattern, name) is not None


def sealed_name(silo: int) -> str:
    """The file in which a buddy keeps a silo's."""
    return f"{stem(silo)}.sealed"
