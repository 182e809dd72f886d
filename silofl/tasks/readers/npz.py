"""NumPy archives."""

from __future__ import annotations

import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError
from silofl.tasks.readers.columns import check_numbers
from silofl.tasks.readers.source import Options, Samples, Source, reading


def read_npz(source: Source, options: Options) -> Samples:
    """Read array `x`, and the labels from the array `label_column` names or else from `y`.

    x is (n, d), or grey images (n, height, width) or (n, 1, height, width). Images of bytes are divided by
    255, all else is taken as it is; images are not resized. Pickled objects are never loaded.

    Raises:
        DataError: the file is damaged, an array is missing, not numeric or of the wrong shape.
    """
    arrays = _load(source)
    label = options.label_column if options.label_column in arrays else "y"
    for name, what in (("x", "'x'"), (label, f"{options.label_column!r} or 'y'")):
        if name not in arrays:
            raise DataError(f"{source} has no array {what}: it has {', '.join(sorted(arrays)) or 'none'}")
    features, labels = _features(arrays["x"], source), arrays[label]
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


def _load(source: Source) -> dict[str, NDArray[Any]]:
    with reading(source, "NPZ"):
        if not zipfile.is_zipfile(source.path):
            source.path.open("rb").close()
            raise DataError(f"{source} is not an NPZ archive or is cut short: write it with numpy.savez")
        with np.load(source.path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


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
