"""A configuration in words that others may read: without paths, and without what may be secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from silofl.config import LOCAL_PATHS

HIDDEN = "not shown"
_SECRET = re.compile(r"secret|token|passw|passphrase|credential|api_?key|private_?key", re.IGNORECASE)
"""Names of keys, such as those of a task's own options, whose values are nobody else's."""
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
            yield ".".join((*above, name)), HIDDEN if _SECRET.search(name) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        text = f"[{', '.join(map(_text, value))}]"
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
