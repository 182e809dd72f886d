"""NumPy archives."""

from __future__ import annotations

import math
import os
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError
from silofl.tasks.readers.columns import check_numbers
from silofl.tasks.readers.source import Options, Samples, Source, reading

FLOAT_BYTES = 8
"""Features become float64."""


def read_npz(source: Source, options: Options) -> Samples:
    """Read array `x`, and the labels from the array `label_column` names or else from `y`.

    x is (n, d), or grey images (n, height, width) or (n, 1, height, width). Images of bytes are divided by
    255, all else is taken as it is; images are not resized. Pickled objects are never loaded.

    Raises:
        DataError: the file is damaged, an array is missing, not numeric or of the wrong shape.
    """
    x, labels, label = _load(source, options)
    features = _features(x, source)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != features.shape[:1]:
        raise DataError(
            f"array {label!r} of {source} has shape {labels.shape} beside {len(features)} samples in x: "
            "give one label for each sample"
        )
    if labels.dtype.kind == "f":
        check_numbers(labels, f"array {label!r} of {source}")
    return Samples(features, labels)


def _load(source: Source, options: Options) -> tuple[NDArray[Any], NDArray[Any], str]:
    """Array x, the labels, and the name of their array; no other array is read."""
    with reading(source, "NPZ"):
        if not zipfile.is_zipfile(source.path):
            source.path.open("rb").close()
            raise DataError(f"{source} is not an NPZ archive or is cut short: write it with numpy.savez")
        with np.load(source.path, allow_pickle=False) as archive:
            label = options.label_column if options.label_column in archive.files else "y"
            for name, what in (("x", "'x'"), (label, f"{options.label_column!r} or 'y'")):
                if name not in archive.files:
                    there = ", ".join(sorted(archive.files)) or "none"
                    raise DataError(f"{source} has no array {what}: it has {there}")
                _refuse_huge(archive.zip, name, source)
            return archive["x"], archive[label], label


def _refuse_huge(archive: zipfile.ZipFile, name: str, source: Source) -> None:
    """Raise DataError for an array that does not fit in memory, by its header: small files may hold one."""
    with archive.open(f"{name}.npy") as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    needed, there = math.prod(shape) * max(dtype.itemsize, FLOAT_BYTES), memory_bytes()
    if needed > there:
        raise DataError(
            f"array {name!r} of {source} has shape {shape} and would take {needed / 2**30:,.1f} GiB, and "
            f"this machine has {there / 2**30:,.1f} GiB: give fewer samples"
        )


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _features(x: NDArray[Any], source: Source) -> NDArray[np.floating[Any]]:
    what = f"array 'x' of {source}"
    if x.dtype.kind not in "biuf":
        raise DataError(f"{what} is not numeric but of type {x.dtype}: encode it as numbers")
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim not in (2, 4) or (x.ndim == 4 and x.shape[1] != 1) or 0 in x.shape[1:]:
        raise DataError(
            f"{what} has shape {x.shape}: it must be (samples, features) or (samples, height, width)"
        )
    features = x / np.float32(255) if x.ndim == 4 and x.dtype == np.uint8 else x.astype(np.float64)
    check_numbers(features, what)
    return features
