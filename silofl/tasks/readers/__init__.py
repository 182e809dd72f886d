"""Readers of an institution's own data: one a kind of file."""

from __future__ import annotations

import os
import stat
from functools import partial

from silofl.errors import DataError
from silofl.tasks.readers.folders import PACKED, files_below, suffix_of
from silofl.tasks.readers.images import SUFFIXES, read_images
from silofl.tasks.readers.npz import read_npz
from silofl.tasks.readers.parquet import read_parquet
from silofl.tasks.readers.parts import read_parts
from silofl.tasks.readers.source import (
    Options,
    Reader,
    Samples,
    Source,
    reading,
    refuse,
    refuse_uninstalled,
    with_units,
    without_targets,
)
from silofl.tasks.readers.text import read_csv

__all__ = ["READERS", "Options", "Samples", "Source", "read", "refuse_missing"]

READERS: dict[str, Reader] = {
    ".npz": read_npz,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".pq": read_parquet,
}
"""By the ending of the file's name, which for text may be followed by that of a packed file."""
_NEEDS: dict[Reader, str] = {read_parquet: "pyarrow"}
"""The library of a reader of files that is no part of silofl's own installation."""


def read(source: Source, options: Options) -> Samples:
    """All samples of a file or folder, with what was passed over; without problems.

    Raises:
        DataError: it is missing, of an unknown kind, unreadable, empty, or has samples that cannot be
            trained on: all that is wrong with them in one sentence.
        MissingDependencyError: the extra `files` is needed and not installed.
    """
    _refuse_absent(source)
    reader = _reader(source)
    if options.owner and reader is read_images:
        raise DataError(
            f"{source} is a folder of images, which has no column {options.owner!r}: write images and owners "
            "into an NPZ file, or remove data.owner_column"
        )
    if options.roles.measured and reader is read_images:
        raise DataError(
            f"{source} is a folder of images, whose folders are classes, and data.target names columns of "
            "numbers: write images and numbers into an NPZ file"
        )
    samples = reader(source, options)
    if options.roles.measured:
        samples = without_targets(samples, options.roles.targets)
    if options.units and not samples.problems:
        samples = with_units(samples, options.units)
    refuse(source, samples.problems, samples.own)
    if not len(samples.labels):
        raise DataError(f"silo {source.silo} has no samples: {source.path} is empty")
    return samples


def refuse_missing(source: Source) -> None:
    """Raise what `read` would of a file or folder that is not there or not readable; nothing is read.

    Likewise where it is of no known kind, or its kind needs a library that is not installed.
    """
    _refuse_absent(source)
    with reading(source, "a file or folder"):
        if not os.access(source.path, os.R_OK):
            raise PermissionError
    suffix = suffix_of(source.path)
    if source.path.is_dir() and suffix not in READERS:  # what is in it may take long to list
        return
    _reader(source)
    library = _NEEDS.get(READERS[suffix])
    if library is not None:
        refuse_uninstalled(library, f"reading {source}")


def _refuse_absent(source: Source) -> None:
    with reading(source, "a file or folder"):
        mode = source.path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(
            f"{source} is neither a file nor a folder, such as a pipe or a device: write the data into a file"
        )


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
