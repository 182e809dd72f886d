"""Readers of an institution's own data: one a kind of file."""

from __future__ import annotations

import stat
from functools import partial

from silofl.errors import DataError
from silofl.tasks.readers.folders import PACKED, files_below, suffix_of
from silofl.tasks.readers.images import SUFFIXES, read_images
from silofl.tasks.readers.npz import read_npz
from silofl.tasks.readers.parquet import read_parquet
from silofl.tasks.readers.parts import read_parts
from silofl.tasks.readers.source import Options, Reader, Samples, Source, reading, refuse
from silofl.tasks.readers.text import read_csv

__all__ = ["READERS", "Options", "Samples", "Source", "read"]

READERS: dict[str, Reader] = {
    ".npz": read_npz,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".pq": read_parquet,
}
"""By the ending of the file's name, which for text may be followed by that of a packed file."""


def read(source: Source, options: Options) -> Samples:
    """All samples of a file or folder, with what was passed over; without problems.

    Raises:
        DataError: it is missing, of an unknown kind, unreadable, empty, or has samples that cannot be
            trained on: all that is wrong with them in one sentence.
        MissingDependencyError: the extra `files` is needed and not installed.
    """
    with reading(source, "a file or folder"):
        mode = source.path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(
            f"{source} is neither a file nor a folder, such as a pipe or a device: write the data into a file"
        )
    samples = _reader(source)(source, options)
    refuse(source, samples.problems)
    if not len(samples.labels):
        raise DataError(f"silo {source.silo} has no samples: {source.path} is empty")
    return samples


def _reader(source: Source) -> Reader:
    suffix = suffix_of(source.path)
    reader = READERS.get(suffix)
    if source.path.is_dir():
        return _folder_reader(source) if reader is None else partial(read_parts, reader=reader, suffix=suffix)
    packed = source.path.suffix.lower() in PACKED
    if reader is None or (packed and reader is not read_csv):
        raise DataError(
            f"{source} is of no known kind: give a folder of images or a file {', '.join(READERS)}"
        )
    return reader


def _folder_reader(source: Source) -> Reader:
    with reading(source, "a folder"):
        files = files_below(source.path)
    tables = [path for path in files if suffix_of(path) in READERS]
    if tables and not any(path.suffix.lower() in SUFFIXES for path in files):
        suffix = suffix_of(tables[0])
        raise DataError(
            f"{source} is a folder of {len(tables)} table(s) and no images: name one file, or where all are "
            f"parts of one table call the folder {source.path.name}{suffix}"
        )
    return read_images
