"""NumPy archives."""

from __future__ import annotations

import math
import threading
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError
from silofl.tasks.readers.cells import Column
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.readers.columns import column_problems, name_problems, new_column, role_problems
from silofl.tasks.readers.labels import encode
from silofl.tasks.readers.owners import digests
from silofl.tasks.readers.pixels import AS_THEY_ARE, COLOURS, SCALED
from silofl.tasks.readers.rows import RowOf
from silofl.tasks.readers.source import NUMBER, Options, Samples, Source, reading, refuse_huge
from silofl.tasks.readers.target_column import measured

_CHANNELS = (1, 3)
_PARSING = threading.Lock()
"""NumPy parses headers by `ast`, whose count of recursion CPython 3.11 keeps for all threads together (its
issue 106905): seen once in a long run, two silos of one process that read at the same time had a SystemError.
"""
OWNER = "owner"
"""The array that says whose the samples are, unless one is called as `data.owner_column`."""
NAMES = "columns"
"""The array that names the columns of x, where there is one."""


def read_npz(source: Source, options: Options) -> Samples:
    """Read array `x`, and the labels from the arrays that `data.target` names or else from `y`.

    x is (n, d), or images (n, height, width), with 1 or 3 channels behind or before height and width. Images
    of bytes are divided by 255, all else is taken as it is; images are not resized. Where the array `columns`
    (d,) names columns, they are sorted by name as those of other tables. Pickled objects are never loaded.

    Raises:
        DataError: the file is damaged, an array is missing, not numeric or of the wrong shape.
    """
    x, told, names, owners, owner = _load(source, options)
    samples = _features(x, names, source, options)
    labels, wrong = _labels(told, len(x), source, options)
    samples = samples._replace(labels=labels, problems=(*samples.problems, *wrong))
    if owners is None:
        return samples
    if owners.ndim == 2 and owners.shape[1] == 1:
        owners = owners[:, 0]
    if owners.shape != x.shape[:1] or owners.dtype.kind not in "biufUS":
        raise DataError(
            f"array {owner!r} of {source} has shape {owners.shape} and type {owners.dtype} beside {len(x)} "
            "samples in x: give one owner, a number or a text, for each sample"
        )
    what, rows = f"array {owner!r}", range(1, len(x) + 1)
    whose, unknown = digests(owners.tolist(), options.owner_key, what, "row", rows)
    return samples._replace(owners=whose, problems=(*samples.problems, *unknown))


def _labels(
    told: dict[str, NDArray[Any]], many: int, source: Source, options: Options
) -> tuple[NDArray[Any], list[str]]:
    """Class numbers (n,), or a target's numbers (n, k), of arrays by name, and what is wrong with them."""
    rules = list(options.roles.measured.values())
    columns = [
        (name, column)
        for name, array in told.items()
        for column in (array.T if array.ndim == 2 and len(array) == many else [array])
    ]
    if any(column.shape != (many,) for _, column in columns) or len(columns) != max(1, len(rules)):
        shapes = ", ".join(f"{name!r} of {source} has shape {array.shape}" for name, array in told.items())
        wanted = f"{len(rules)} numbers" if len(rules) > 1 else "one number" if rules else "one label"
        raise DataError(f"array {shapes} beside {many} samples in x: give {wanted} for each sample")
    if rules:
        return measured(columns, rules)
    (name, labels), *_ = columns
    return encode(labels, options.task, f"array {name!r}", "row", range(1, many + 1))


def _load(
    source: Source, options: Options
) -> tuple[NDArray[Any], dict[str, NDArray[Any]], NDArray[Any] | None, NDArray[Any] | None, str]:
    """Array x, those of labels by name, names of columns, and owners and the name of theirs.

    No other array is read.
    """
    with reading(source, "NPZ"):
        if not zipfile.is_zipfile(source.path):
            source.path.open("rb").close()
            raise DataError(f"{source} is not an NPZ archive or is cut short: write it with numpy.savez")
        with _PARSING, np.load(source.path, allow_pickle=False) as archive:
            targets = options.roles.targets
            labels = list(targets) if set(targets) <= set(archive.files) else ["y"]
            owner = options.owner if options.owner in archive.files else OWNER
            wanted = [("x", "'x'"), (labels[0], f"{' and '.join(map(repr, targets))} or 'y'")]
            if options.owner:
                wanted.append((owner, f"{options.owner!r} or {OWNER!r} for data.owner_column"))
            for name, what in wanted:
                if name not in archive.files:
                    there = ", ".join(sorted(archive.files)) or "none"
                    raise DataError(f"{source} has no array {what}: it has {there}")
            named = [NAMES] if NAMES in archive.files and NAMES not in labels else []
            owned = [owner] if options.owner else []
            for name in ("x", *labels, *named, *owned):
                _refuse_huge(archive.zip, name, source)
            names, owners = (archive[some[0]] if some else None for some in (named, owned))
            return archive["x"], {name: archive[name] for name in labels}, names, owners, owner


def _refuse_huge(archive: zipfile.ZipFile, name: str, source: Source) -> None:
    """Raise DataError for an array of objects, or one that does not fit in memory, by its header."""
    with archive.open(f"{name}.npy") as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DataError(
            f"array {name!r} of {source} holds Python objects, which are never loaded, for they may run "
            "programs: save it as an array of numbers or of text"
        )
    values = math.prod(shape) * max(dtype.itemsize // 8, 1)
    refuse_huge(source, values, f"array {name!r} of shape {shape}")


def _features(x: NDArray[Any], names: NDArray[Any] | None, source: Source, options: Options) -> Samples:
    """The samples without labels."""
    channels, roles = options.task.channels, options.roles
    what = f"array 'x' of {source}"
    if x.dtype.kind not in "biuf":
        raise DataError(f"{what} is not numeric but of type {x.dtype}: encode it as numbers")
    shape, x = x.shape, _channels_first(x)
    if x.ndim not in (2, 4) or (x.ndim == 4 and x.shape[1] not in _CHANNELS) or 0 in x.shape[1:]:
        raise DataError(
            f"{what} has shape {shape}: it must be (samples, features), (samples, height, width), or have 1 "
            "or 3 channels behind or before height and width"
        )
    if x.ndim == 4 and channels not in (None, x.shape[1]):
        raise DataError(
            f"{what} has {x.shape[1]} channel(s) and task.channels = {channels}: convert the images, or "
            "change it"
        )
    nobody = np.full(len(x), -1, dtype=np.int64)
    if x.ndim == 4:
        scaled = x.dtype == np.uint8
        kind = (SCALED if x.shape[1] == 1 else COLOURS) if scaled else AS_THEY_ARE
        schema: tuple[tuple[str, str], ...] = (("image", kind),)
        flat, problems = _numbers(x.reshape(len(x), -1))
        return Samples(x / np.float32(255) if scaled else flat.reshape(x.shape), nobody, schema, problems)
    features, problems = _numbers(x, may_miss=roles.may_be_missing(""))
    if names is None:
        return Samples(features, nobody, (("", NUMBER),) * x.shape[1], problems)
    if names.shape != x.shape[1:] or names.dtype.kind != "U":
        raise DataError(
            f"array {NAMES!r} of {source} has shape {names.shape} and type {names.dtype} beside {x.shape[1]} "
            "columns of x: give one name, as text, for each column"
        )
    known = [tidy(str(name)) for name in names]
    if roles.categorical or roles.may_miss or any(map(roles.passes_over, known)):
        return _by_role(x, known, options)
    order = sorted(range(len(known)), key=known.__getitem__)
    wrong = name_problems([*known, "y"], ["y"]) + role_problems(known, options)
    schema = tuple((known[k], NUMBER) for k in order)
    return Samples(features[:, order], nobody, schema, (*wrong, *problems))


def _by_role(x: NDArray[Any], names: list[str], options: Options) -> Samples:
    """Samples without labels of columns that are not all plain numbers, or no features."""
    rows, columns = range(1, len(x) + 1), []
    kept = [place for place, name in enumerate(names) if not options.roles.passes_over(name)]
    for place in sorted(kept, key=names.__getitem__):
        columns.append(new_column(names[place], options))
        columns[-1].add_numbers(x[:, place], rows)
    wrong = name_problems([*(names[place] for place in kept), "y"], ["y"]) + role_problems(names, options)
    wrong += column_problems(columns, "row")
    features = np.column_stack([one.values for one in columns]) if columns else np.empty((len(x), 0))
    schema = tuple((column.name, column.kind) for column in columns)
    texts = {column.name: column.texts for column in columns if column.texts}
    passed = tuple(sorted(set(names) - set(dict(schema))))
    return Samples(features, np.full(len(x), -1), schema, tuple(wrong), passed_over=passed, texts=texts)


def _channels_first(x: NDArray[Any]) -> NDArray[Any]:
    """Images (n, channels, height, width), of which greys may have no channel."""
    if x.ndim == 3:
        return x[:, None]
    behind = x.ndim == 4 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS
    return x.transpose(0, 3, 1, 2) if behind else x


def _numbers(x: NDArray[Any], *, may_miss: bool = False) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Float64 (n, d) and what is wrong with it: missing, infinite or inexact values."""
    cells = Column("x", may_miss=may_miss)
    cells.add_numbers(x.ravel(), RowOf(x.shape[1], x.size))
    problems = tuple(f"array 'x' has {problem}" for problem in cells.problems("row"))
    return cells.values.reshape(x.shape), problems
