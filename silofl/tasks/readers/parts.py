"""A table in parts: a folder of files of one kind, as Spark and other engines write it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import numpy as np

from silofl.errors import DataError
from silofl.tasks.readers.folders import files_below, suffix_of
from silofl.tasks.readers.rows import listed
from silofl.tasks.readers.source import Options, Reader, Samples, Source, reading

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def read_parts(source: Source, options: Options, reader: Reader, suffix: str) -> Samples:
    """Read every file below the folder that ends in `suffix`, in the order of their names.

    Folders called `name=value` are columns, as Hive has them. Files whose names begin with a dot or a
    low line are an engine's own; other kinds of files are refused, for they could be samples, too.

    Raises:
        DataError: there is no such file, or one of another kind.
    """
    with reading(source, "a folder"):
        files = [path for path in files_below(source.path) if not _of_engine(path.relative_to(source.path))]
    strange = [path for path in files if suffix_of(path) != suffix]
    if strange:
        raise DataError(
            f"{source} is a folder of parts and {len(strange)} of its {len(files)} files do not end in "
            f"{suffix}: take them out"
        )
    parts = [(path, _part(source, path, options, reader)) for path in files]
    parts = [(path, part) for path, part in parts if len(part.labels) or part.problems]
    if not parts:
        raise DataError(f"silo {source.silo} has no samples: {source.path} has no part with a row")
    samples = [part for _, part in parts]
    first = samples[0]
    called = {path: _called(path.relative_to(source.path)) for path, _ in parts}
    odd = [called[path] for path, part in parts if part.schema != first.schema]
    problems = [f"{called[path]}: {problem}" for path, part in parts for problem in part.problems]
    wrong = [path for path, part in parts if part.problems or part.schema != first.schema]
    own = [str(path.relative_to(source.path)) for path in wrong]
    own += [f"{called[path]}: {text}" for path, part in parts for text in part.own]
    if odd:
        problems.append(
            f"{listed(odd[:5], max(0, len(odd) - 5))} has other columns, or other kinds of them, than "
            f"{called[parts[0][0]]}: write all parts alike"
        )
        return first._replace(problems=tuple(problems), own=tuple(own))
    whose = [part.owners for part in samples if part.owners is not None]
    return Samples(
        np.concatenate([part.features for part in samples]),
        np.concatenate([part.labels for part in samples]),
        first.schema,
        tuple(problems),
        tuple(f"{called[path]}: {text}" for path, part in parts for text in part.notices),
        tuple(own),
        np.concatenate(whose) if len(whose) == len(samples) else None,
        first.passed_over,
        {
            name: {key: text for part in samples for key, text in part.texts.get(name, {}).items()}
            for name in dict.fromkeys(name for part in samples for name in part.texts)
        },
    )


def _called(path: Path) -> str:
    """A part's path without the values of columns that its folders stand for: `ward=*/part-0.csv`."""
    folders = [
        f"{name}=*" if equals else name for name, equals, _ in (one.partition("=") for one in path.parts)
    ]
    return str(Path(*folders[:-1], path.name))


def _of_engine(path: Path) -> bool:
    return any(name.startswith("_") and "=" not in name for name in path.parts)


def _part(source: Source, path: Path, options: Options, reader: Reader) -> Samples:
    pairs = [one.partition("=") for one in path.relative_to(source.path).parts[:-1]]
    constants = {
        name: "" if value == _NO_VALUE else unquote(value) for name, equals, value in pairs if equals
    }
    return reader(Source(path, source.silo), options._replace(constants=constants))
