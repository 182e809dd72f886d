"""From named columns to samples: what CSV and Parquet have in common."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from silofl.tasks.readers.category_column import CategoryColumn
from silofl.tasks.readers.cells import Column, is_value
from silofl.tasks.readers.labels import encode
from silofl.tasks.readers.owners import digests
from silofl.tasks.readers.rows import listed, places, some
from silofl.tasks.readers.source import Options, Samples
from silofl.tasks.readers.target_column import TargetColumn

_INDEX = ("__index_level_", "Unnamed: ")
"""What pandas calls its row index when it writes it, and when it reads it as a column."""
_SHOWN = 5
"""Columns with the same fault in other rows each that are told of."""


def name_problems(names: Sequence[str], targets: Sequence[str], owner_column: str = "") -> list[str]:
    """What is wrong with the names of columns that hold something; `owner_column` may be empty."""
    found = []
    nameless = [place for place, name in enumerate(names, start=1) if not name or name.startswith(_INDEX)]
    if nameless:
        verb = "has" if len(nameless) == 1 else "have"
        found.append(
            f"{places('column', nameless)} {verb} no name or a row index's: name every column, and write the "
            "file without a row index"
        )
    if any("\0" in name for name in names):
        found.append(
            "the names of columns have zero bytes, as a damaged file or no text has: write the file anew"
        )
    found += [
        f"there are {count} columns {name!r}: rename or remove all but one"
        for name, count in Counter(names).items()
        if count > 1 and name
    ]
    lost = [name for name in targets if name not in names]
    if lost and len(targets) == 1:
        found.append(f"there is no label column {lost[0]!r}: set data.target to one of {some(names)}")
    elif lost:
        found.append(f"there is no column {some(lost)} of data.target: take it of {some(names)}")
    elif not set(names) - {*targets, owner_column}:
        found.append(f"there is no column but the label {some(targets)}: add columns of features")
    if owner_column and owner_column not in names:
        others = [name for name in names if name not in targets]
        found.append(
            f"there is no owner column {owner_column!r}: set data.owner_column to one of {some(others)}"
        )
    return found


def headless(names: Sequence[str], label_column: str) -> str:
    """What is wrong with a table without a label column whose names may be its first sample: none is told."""
    values = sum(map(is_value, names))
    return (
        f"there is no label column {label_column!r}, and {values} of {len(names)} name(s) of columns are no "
        "words, as in a file without a header: write a name for each column into the first line, or set "
        "data.target"
    )


def unlabelled(names: Sequence[str], label_column: str) -> str:
    """What is wrong with text without a label column: what stands in its first line may be a sample, too."""
    return (
        f"there is no label column {label_column!r} among the {len(names)} name(s) in the first line: set "
        "data.target to one of them, or write a line of names first"
    )


def column_problems(columns: Sequence[Column], word: str) -> list[str]:
    """What is wrong with values: where many columns have the same, what to do about it is said once."""
    by_remedy: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for column in columns:
        for problem in column.problems(word):
            what, _, remedy = problem.partition(": ")
            by_remedy[remedy][what].append(column.name)
    found = []
    for remedy, alike in by_remedy.items():
        parts = [
            f"columns {some(names)} each have {what}" if len(names) > 1 else f"column {names[0]!r} has {what}"
            for what, names in alike.items()
        ]
        more = sum(map(len, list(alike.values())[_SHOWN:]))
        found.append(f"{listed(parts[:_SHOWN] + [f'{more} more column(s)'] * (more > 0))}: {remedy}")
    return found


def _no_owners(columns: Sequence[Column], word: str) -> list[Column]:
    """All but the one column that cannot be trained on, if it is one: that of owners, by another name."""
    fit = [column for column in columns if not column.problems(word)]
    return fit if len(columns) - len(fit) == 1 else list(columns)


def new_column(name: str, options: Options) -> Column:
    """A column to be filled: of numbers, or of categories where those are told to be there."""
    roles = options.roles
    if name in roles.measured:
        return TargetColumn(name, options.decimal, roles.measured[name])
    if name in roles.categorical:
        return CategoryColumn(name, roles.categorical[name])
    return Column(name, options.decimal, may_miss=roles.may_be_missing(name))


def role_problems(names: Iterable[str], options: Options) -> list[str]:
    """What of the columns that [data] names is not there; `names` are all of a table."""
    there, roles = {name for name in names if name}, options.roles
    found = []
    if roles.identifier and roles.identifier not in there:
        found.append(
            f"there is no id column {roles.identifier!r}: set data.id to one of {some(sorted(there))}, or "
            "remove it"
        )
    lost = sorted(roles.taken - there)
    if lost:
        found.append(
            f"there is no column {some(lost)}, which data.columns takes: correct the name or remove it there"
        )
    return found


def from_columns(
    columns: Sequence[Column],
    labels: Sequence[Any] | None,
    options: Options,
    word: str,
    rows: Sequence[int],
    owners: Sequence[Any] | None = None,
) -> Samples:
    """Samples with features sorted by column name, so that the order of columns in a file does not matter.

    Args:
        columns: of features, of which those that have neither a name nor a value are passed over, as are
            those that `options` says are none.
        labels: as they stand in the file; None where it has no such column.
        options: what the file is read with.
        word: what a row is called.
        rows: how each row is called.
        owners: as they stand in the column `options.owner`; None where there is none.
    """
    label, owner = options.label, options.owner
    named = [column for column in columns if column.name or not column.empty]
    passed_over = len(columns) - len(named)
    kept = [column for column in named if not options.roles.passes_over(column.name)]
    notices = (
        [f"{passed_over} column(s) without a name and without a value are passed over"] if passed_over else []
    )
    for name, value in options.constants.items():
        if label and name == label:
            labels = [value] * len(rows)
        elif owner and name == owner:
            owners = [value] * len(rows)
        elif not options.roles.passes_over(name):
            kept.append(new_column(name, options))
            kept[-1].add([value] * len(rows), rows)
    names = [column.name for column in kept] + ([] if labels is None else [label])
    targets = options.roles.targets
    lost = [name for name in targets if name not in names]
    if lost and any(map(is_value, names)):
        return Samples(np.empty((len(rows), 0)), np.full(len(rows), -1), (), (headless(names, lost[0]),))
    problems = name_problems([*names, *([] if owners is None else [owner])], targets, owner)
    all_names = [*options.constants, *(column.name for column in named)]
    problems += role_problems([*all_names, label, owner], options)
    problems += column_problems(_no_owners(kept, word) if owner and owners is None else kept, word)
    classes = np.full(len(rows), -1, dtype=np.int64)
    if labels is not None:
        classes, wrong = encode(labels, options.task, f"label column {label!r}", word, rows)
        problems += wrong
    whose, unknown = None, list[str]()
    if owners is not None:
        whose, unknown = digests(owners, options.owner_key, f"owner column {owner!r}", word, rows)
    ordered = sorted(kept, key=lambda column: column.name)
    features = np.column_stack([column.values for column in ordered]) if ordered else np.empty((len(rows), 0))
    schema = tuple((column.name, column.kind) for column in ordered)
    texts = {column.name: column.texts for column in ordered if column.texts}
    problems += unknown
    passed = tuple(sorted(name for name in all_names if options.roles.passes_over(name)))
    found = Samples(features, classes, schema, tuple(problems), tuple(notices), owners=whose)
    return found._replace(passed_over=passed, texts=texts)
