"""Readers of an institution's own data: one a kind of file."""

from __future__ import annotations

from silofl.errors import DataError
from silofl.tasks.readers.images import read_images
from silofl.tasks.readers.npz import read_npz
from silofl.tasks.readers.parquet import read_parquet
from silofl.tasks.readers.source import Options, Reader, Samples, Source, reading
from silofl.tasks.readers.text import read_csv

__all__ = ["READERS", "Options", "Samples", "Source", "read"]

READERS: dict[str, Reader] = {
    ".npz": read_npz,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".pq": read_parquet,
}
"""By the ending of the file's name; a folder is read by `read_images`."""


def read(source: Source, options: Options) -> Samples:
    """All samples of a file or folder.

    Raises:
        DataError: it is missing, of an unknown kind, unreadable, incomplete or empty.
        MissingDependencyError: the extra `files` is needed and not installed.
    """
    with reading(source, "a file or folder"):
        source.path.stat()
    reader = read_images if source.path.is_dir() else READERS.get(source.path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{source} is of no known kind: give a folder of images or a file {', '.join(READERS)}"
        )
    samples = reader(source, options)
    if not len(samples.labels):
        raise DataError(f"silo {source.silo} has no samples: {source.path} is empty")
    return samples
