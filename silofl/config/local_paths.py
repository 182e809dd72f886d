"""Keys that name files of one institution: each sets its own, and `{silo}` in them is its number."""

from __future__ import annotations

from pathlib import Path

LOCAL_PATHS = (
    ("run", "dir"),
    ("data", "path"),
    ("secure", "identity"),
    ("secure", "passphrase_file"),
    ("secure", "roster"),
    ("checkpoint", "key_file"),
)
"""Every key whose value is a path."""


def silo_path(text: str, silo: int) -> Path:
    """The path that such a key names for a silo: `{silo}` is its number, `~` the user's home folder."""
    return Path(text.replace("{silo}", str(silo))).expanduser()
