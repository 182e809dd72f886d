"""A configuration in words that others may read: without paths, and without what may be secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from silofl.config import LOCAL_PATHS

HIDDEN = "not shown"
_SECRET = re.compile(r"secret|token|passw|passphrase|credential|api_?key|private_?key", re.IGNORECASE)
"""Names of keys whose values are nobody else's."""
_OPTIONS = ("task", "options")
"""Of a user's own task: its texts may be anything, so that only numbers and truth values are shown."""
LONGEST = 200
"""Characters of a value that are shown."""


def settings_text(tables: Mapping[str, Any]) -> dict[str, str]:
    """Values of a configuration's tables by full key; empty ones and paths are left out."""
    return dict(_flat(tables))


def _flat(tables: Mapping[str, Any], *above: str) -> Iterator[tuple[str, str]]:
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from _flat(value, *above, name)
        elif value not in ("", []) and (*above, name) not in LOCAL_PATHS:
            own = (*above, name)[:2] == _OPTIONS and not isinstance(value, bool | int | float)
            hidden = (
                own or _SECRET.search(name) or (isinstance(value, str) and ("/" in value or "\\" in value))
            )
            yield ".".join((*above, name)), HIDDEN if hidden else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        text = f"[{', '.join(map(_text, value))}]"
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
