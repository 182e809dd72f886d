"""What is in a folder: every file below it, and what was passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from silofl.tasks.readers.rows import listed

PACKED = (".gz", ".bz2", ".xz")
"""What text may be packed by."""
_OF_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")
"""What file managers leave in folders; on other systems their files are hidden."""


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, sorted; links are followed, once each. Hidden ones are left out.

    Raises:
        OSError: a folder cannot be read.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        place = os.stat(here)
        if (place.st_dev, place.st_ino) in seen:  # a link to a folder above it, or to one that was read
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not hidden(name))
        found += [Path(here, name) for name in names if not hidden(name)]
    return sorted(found)


def hidden(name: str) -> bool:
    """Whether a file or folder is one of the system's and no data."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def suffix_of(path: Path) -> str:
    """The name's ending in small letters, without that of a packed file: `.csv` of `a.csv.gz`."""
    name = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return name.suffix.lower()


def kinds_of(paths: Iterable[Path]) -> str:
    """`3 .dcm and 1 without an ending`: file names' endings and how often, the most frequent first."""
    counts = Counter(path.suffix.lower() or "without an ending" for path in paths)
    return listed(f"{count} {suffix}" for suffix, count in counts.most_common())


def _raise(error: OSError) -> None:
    raise error
