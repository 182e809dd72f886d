"""New data without labels, as a file has it: columns of numbers or texts, which a model's recipe takes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError, MissingDependencyError
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.readers.dialect import open_text, read_header, rows_of, undecodable_line
from silofl.tasks.readers.folders import PACKED, files_below, suffix_of
from silofl.tasks.readers.images import SUFFIXES
from silofl.tasks.readers.pixels import read_picture
from silofl.tasks.readers.rows import places, some
from silofl.tasks.readers.source import Source, optional


class RawTable(NamedTuple):
    """Samples as they stand in a file.

    Attributes:
        columns: by name (n,) numbers or texts, all of the file; or an array of samples without names.
        rows: how messages call each sample, by `word` and its number.
        word: `line` of text, `image` of images, `row` of all else.
        names: of the images' files.
    """

    columns: Mapping[str, NDArray[Any]] | NDArray[Any]
    rows: Sequence[int]
    word: str = "row"
    names: Sequence[str] = ()

    def column(self, name: str) -> NDArray[Any] | None:
        """One column's values; None where there is none of that name."""
        return self.columns.get(tidy(name)) if isinstance(self.columns, Mapping) and name else None


def read_raw(path: Path, known: str = "", decimal: str = ".") -> RawTable:
    """Read a CSV or Parquet file, or an NPZ with `x` and perhaps `columns`; what it has besides is kept too.

    Args:
        path: of the file; its name says which kind it is.
        known: a column that should be there, by which the delimiter of text is told.
        decimal: the sign before decimals in text, "." or ",".

    Raises:
        DataError: one sentence with the file, and with no value of it.
        MissingDependencyError: Parquet without pyarrow.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}: name the new data, a file {', '.join(_READERS)}")
    reader = _READERS.get(suffix_of(path))
    if reader is None or (path.suffix.lower() in PACKED and reader is not _read_text):
        raise DataError(f"{path} is of no known kind: give a file {', '.join(_READERS)}")
    try:
        table = reader(path, known, decimal)
    except UnicodeDecodeError:
        number = undecodable_line(path)
        where = f"line {number} of {path}" if number else f"the text of {path}"
        raise DataError(f"{where} is not in the file's encoding: save the file as CSV in UTF-8") from None
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read, it is damaged or of another kind ({type(error).__name__})"
        ) from None
    if isinstance(table.columns, Mapping) and not table.columns:
        raise DataError(f"{path} is empty: its first line has to name the columns")
    return table


def read_pictures(folder: Path, size: tuple[int, int], channels: int) -> RawTable:
    """Read all images below a folder, in the order of their names, as those of training are read.

    Args:
        folder: with PNG, JPEG, BMP or TIFF files in it or below it.
        size: height and width.
        channels: 1 for greys, 3 for colours.

    Raises:
        DataError: there is no image, or some cannot be read.
        MissingDependencyError: pillow is not installed.
    """
    optional("PIL.Image", f"reading the images of {folder}")
    files = [path for path in files_below(folder) if path.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{folder} has no images: {', '.join(SUFFIXES)} are read")
    found, damaged = [], []
    for number, path in enumerate(files, start=1):
        try:
            found.append(read_picture(Source(path, 0), size, channels).values)
        except (MemoryError, MissingDependencyError):
            raise
        except Exception:
            damaged.append(number)
    if damaged:
        raise DataError(
            f"{folder} has {len(damaged)} unreadable image(s) ({places('number', damaged)} by name): "
            "replace or remove them"
        )
    names = [str(path.relative_to(folder)) for path in files]
    return RawTable(np.stack(found), range(1, len(files) + 1), "image", names)


def _read_text(path: Path, known: str, decimal: str) -> RawTable:
    with open_text(path) as file:
        header = read_header(file, known)
        reader = rows_of(file, header.delimiter)
        cells: list[list[str]] = []
        numbers: list[int] = []
        uneven: list[int] = []
        last = 0
        for row in reader:
            number, last = header.lines + last + 1, reader.line_num
            if not any(cell.strip() for cell in row):
                continue
            if len(row) > len(header.names) and not any(cell.strip() for cell in row[len(header.names) :]):
                del row[len(header.names) :]
            if len(row) == len(header.names):
                cells.append(row)
                numbers.append(number)
            else:
                uneven.append(number)
    if uneven:
        raise DataError(
            f"{path} has {len(uneven)} line(s) with another number of cells than its header "
            f"({places('line', uneven)}): correct them"
        )
    columns = zip(*cells, strict=True) if cells else [()] * len(header.names)
    return RawTable(_by_name(path, header.names, (_texts(one, decimal) for one in columns)), numbers, "line")


def _texts(cells: Sequence[str], decimal: str) -> NDArray[Any]:
    """Texts without blanks around them, with a point before decimals."""
    found = np.empty(len(cells), dtype=object)
    found[:] = [cell.strip() for cell in cells]
    if decimal == ",":
        found[:] = [
            cell.replace(",", ".") if cell.count(",") == 1 and "." not in cell else cell for cell in found
        ]
    return found


def _read_parquet(path: Path, known: str, decimal: str) -> RawTable:
    parquet = optional("pyarrow.parquet", f"reading {path}")
    table = parquet.read_table(path)
    arrays = map(_of_arrow, table.columns)
    return RawTable(_by_name(path, table.column_names, arrays), range(1, table.num_rows + 1))


def _of_arrow(column: Any) -> NDArray[Any]:
    types = optional("pyarrow.types", "reading Parquet")
    kind = column.type
    if (
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    ) and not column.null_count:
        return np.asarray(column.to_numpy())
    found = np.empty(len(column), dtype=object)
    found[:] = [one.decode(errors="replace") if isinstance(one, bytes) else one for one in column.to_pylist()]
    return found


def _read_npz(path: Path, known: str, decimal: str) -> RawTable:
    with np.load(path, allow_pickle=False) as archive:
        if "x" not in archive.files:
            raise DataError(f"{path} has no array 'x': it has {', '.join(sorted(archive.files)) or 'none'}")
        x = archive["x"]
        names = archive["columns"] if "columns" in archive.files else None
        extra = {name: archive[name] for name in archive.files if name not in ("x", "columns")}
    if x.dtype.kind not in "biuf" or x.ndim < 2:
        raise DataError(
            f"array 'x' of {path} has type {x.dtype} and shape {x.shape}: give numbers (samples, ...)"
        )
    if names is None or x.ndim != 2:
        return RawTable(x, range(1, len(x) + 1))
    if names.shape != x.shape[1:] or names.dtype.kind != "U":
        raise DataError(
            f"array 'columns' of {path} is not one text for each of the {x.shape[1]} columns of x"
        )
    columns = _by_name(path, names.tolist(), iter(x.T))
    beside = {
        name: values for name, values in extra.items() if values.shape == x.shape[:1] and name not in columns
    }
    return RawTable({**columns, **beside}, range(1, len(x) + 1))


def _by_name(path: Path, names: Sequence[str], values: Iterable[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    known = [tidy(name) for name in names]
    twice = [name for name, count in Counter(known).items() if count > 1 and name]
    if twice:
        raise DataError(f"{path} has several columns {some(twice)}: rename or remove all but one of each")
    return {name: one for name, one in zip(known, values, strict=True) if name}


_READERS: dict[str, Callable[[Path, str, str], RawTable]] = {
    ".csv": _read_text,
    ".tsv": _read_text,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
    ".npz": _read_npz,
}
