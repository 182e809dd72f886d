"""Examples, configurations and job scripts that come with silofl: in a checkout, or where pip puts them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from silofl.errors import StorageError

FOLDERS = ("examples", "launch", "slurm")
"""Of a checkout; pyproject.toml lists them as data files of the wheel."""
FIRST_EXAMPLE = "launch/digits.toml"
_SHARE = ("share", "silofl")


def shipped_files() -> dict[str, Path]:
    """Where each file of `FOLDERS` is, by its path in a checkout.

    StorageError where they are neither beside the package nor among what was installed with it.
    """
    root = Path(__file__).parents[1]
    if (root / "pyproject.toml").is_file() and (root / FIRST_EXAMPLE).is_file():
        return _beside(root)
    found = _installed() or _beside(root / "share" / "silofl")
    if FIRST_EXAMPLE not in found:
        raise StorageError("the examples of silofl are not where it is installed: install it from its wheel")
    return found


def _beside(root: Path) -> dict[str, Path]:
    """The files of `FOLDERS` in a folder; none where it has none."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).glob("*")) if path.is_file()]
    return {str(path.relative_to(root)): path for path in paths}


def _installed() -> dict[str, Path]:
    """What the record of the installed package says."""
    try:
        listed = files("silofl") or []
    except PackageNotFoundError:
        return {}
    found = {
        "/".join(one.parts[-2:]): Path(str(one.locate())) for one in listed if one.parts[-4:-2] == _SHARE
    }
    return {name: path for name, path in sorted(found.items()) if path.is_file()}
