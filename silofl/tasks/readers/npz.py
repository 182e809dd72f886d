"""NumPy archives."""

from __future__ import annotations

import math
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError
from silofl.tasks.readers.cells import Column
from silofl.tasks.readers.columns import name_problems, tidy
from silofl.tasks.readers.labels import encode
from silofl.tasks.readers.pixels import AS_THEY_ARE, SCALED
from silofl.tasks.readers.rows import RowOf
from silofl.tasks.readers.source import NUMBER, Options, Samples, Source, reading, refuse_huge

NAMES = "columns"
"""The array that names the columns of x, where there is one."""


def read_npz(source: Source, options: Options) -> Samples:
    """Read array `x`, and the labels from the array `label_column` names or else from `y`.

    x is (n, d), or grey images (n, height, width) or (n, 1, height, width). Images of bytes are divided by
    255, all else is taken as it is; images are not resized. Where the array `columns` (d,) names columns,
    they are sorted by name as those of other tables. Pickled objects are never loaded.

    Raises:
        DataError: the file is damaged, an array is missing, not numeric or of the wrong shape.
    """
    x, labels, label, names = _load(source, options)
    samples = _features(x, names, source)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != x.shape[:1]:
        raise DataError(
            f"array {label!r} of {source} has shape {labels.shape} beside {len(x)} samples in x: "
            "give one label for each sample"
        )
    classes, wrong = encode(labels, options.task, f"array {label!r}", "row", range(1, len(x) + 1))
    return samples._replace(labels=classes, problems=(*samples.problems, *wrong))


def _load(source: Source, options: Options) -> tuple[NDArray[Any], NDArray[Any], str, NDArray[Any] | None]:
    """Array x, the labels, the name of their array, and names of columns; no other array is read."""
    with reading(source, "NPZ"):
        if not zipfile.is_zipfile(source.path):
            source.path.open("rb").close()
            raise DataError(f"{source} is not an NPZ archive or is cut short: write it with numpy.savez")
        with np.load(source.path, allow_pickle=False) as archive:
            label = options.task.label_column if options.task.label_column in archive.files else "y"
            for name, what in (("x", "'x'"), (label, f"{options.task.label_column!r} or 'y'")):
                if name not in archive.files:
                    there = ", ".join(sorted(archive.files)) or "none"
                    raise DataError(f"{source} has no array {what}: it has {there}")
            named = [NAMES] if NAMES in archive.files and label != NAMES else []
            for name in ("x", label, *named):
                _refuse_huge(archive.zip, name, source)
            return archive["x"], archive[label], label, archive[NAMES] if named else None


def _refuse_huge(archive: zipfile.ZipFile, name: str, source: Source) -> None:
    """Raise DataError for an array that does not fit in memory, by its header: small files may hold one."""
    with archive.open(f"{name}.npy") as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    values = math.prod(shape) * max(dtype.itemsize // 8, 1)
    refuse_huge(source, values, f"array {name!r} of shape {shape}")


def _features(x: NDArray[Any], names: NDArray[Any] | None, source: Source) -> Samples:
    """The samples without labels."""
    what = f"array 'x' of {source}"
    if x.dtype.kind not in "biuf":
        raise DataError(f"{what} is not numeric but of type {x.dtype}: encode it as numbers")
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim not in (2, 4) or (x.ndim == 4 and x.shape[1] != 1) or 0 in x.shape[1:]:
        raise DataError(
            f"{what} has shape {x.shape}: it must be (samples, features) or (samples, height, width)"
        )
    nobody = np.full(len(x), -1, dtype=np.int64)
    if x.ndim == 4:
        scaled = x.dtype == np.uint8
        schema: tuple[tuple[str, str], ...] = (("image", SCALED if scaled else AS_THEY_ARE),)
        flat, problems = _numbers(x.reshape(len(x), -1))
        return Samples(x / np.float32(255) if scaled else flat.reshape(x.shape), nobody, schema, problems)
    features, problems = _numbers(x)
    if names is None:
        return Samples(features, nobody, (("", NUMBER),) * x.shape[1], problems)
    if names.shape != x.shape[1:] or names.dtype.kind != "U":
        raise DataError(
            f"array {NAMES!r} of {source} has shape {names.shape} and type {names.dtype} beside {x.shape[1]} "
            "columns of x: give one name, as text, for each column"
        )
    known = [tidy(str(name)) for name in names]
    order = sorted(range(len(known)), key=known.__getitem__)
    wrong = name_problems([*known, "y"], "y")
    schema = tuple((known[k], NUMBER) for k in order)
    return Samples(features[:, order], nobody, schema, (*wrong, *problems))


def _numbers(x: NDArray[Any]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Float64 (n, d) and what is wrong with it: missing, infinite or inexact values."""
    cells = Column("x")
    cells.add_numbers(x.ravel(), RowOf(x.shape[1], x.size))
    problems = (problem.replace("column 'x'", "array 'x'", 1) for problem in cells.problems("row"))
    return cells.values.reshape(x.shape), tuple(problems)
