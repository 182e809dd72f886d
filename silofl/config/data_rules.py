"""What of [data] contradicts itself or other sections: each rule a condition and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from silofl.config import Config, DataConfig

Rule = tuple[bool, str]
_OF_FILES = ("target", "id", "drop", "columns", "categorical", "impute", "flag_missing", "least_count")
"""Keys that only files have something to do with, beside those that are told of by themselves."""


def data_rules(config: Config) -> list[Rule]:
    """What of [data] scales columns: of whose files, by which constants, and what [privacy] covers of it."""
    data, task, unit = config.data, config.task, config.privacy.unit
    constants = [f"data.{key}" for key in ("center", "scale") if getattr(data, key)]
    scaled = [*constants, *(['data.standardize = "federated"'] if data.standardize else [])]
    keys = " and ".join(scaled)
    other = f"task.factory = {task.factory!r}" if task.factory else f'task.name = "{task.name}"'
    return [
        (
            bool(data.owner_column) and (bool(task.factory) or task.name != "files"),
            f"data.owner_column = {data.owner_column!r} is a column of files, and {other} reads none: remove "
            "it"
            + (
                ", and give owners in the task's SiloData" if task.factory else ', or set task.name = "files"'
            ),
        ),
        (
            bool(data.owner_column) and data.owner_column.strip() in _targets(data),
            f"data.owner_column = {data.owner_column!r} is data.target, too: name the column that says "
            "whose a record is",
        ),
        (
            bool(scaled) and (bool(task.factory) or task.name != "files"),
            f"{keys} would scale columns of files, and {other} reads none: remove it, or set "
            'task.name = "files"',
        ),
        (
            bool(data.standardize and constants) and not _of_target_alone(config),
            f"{keys} would scale columns twice: keep the constants or the statistics",
        ),
        (
            bool(data.standardize) and unit in ("client", "silo"),
            f'data.standardize = "federated" adds up records, and privacy.unit = "{unit}" protects all '
            f"that a {unit} has: set publicly known constants in data.center and data.scale instead, or "
            "remove it",
        ),
        (
            bool(data.standardize) and unit in ("example", "patient") and not data.bounds,
            f'data.standardize = "federated" under privacy.unit = "{unit}" adds up values within publicly '
            'known bounds: set data.bounds, such as {age = [0, 120], "*" = [-10, 10]}, or constants in '
            "data.center and data.scale instead",
        ),
        (
            bool(data.bounds) and not (data.standardize and unit != "none"),
            'data.bounds are for the noisy sums of data.standardize = "federated" under [privacy], and '
            + ("nothing is standardized" if not data.standardize else 'privacy.unit is "none"')
            + ": remove them",
        ),
    ]


def column_rules(config: Config) -> list[Rule]:
    """What becomes of single columns."""
    data, task, unit = config.data, config.task, config.privacy.unit
    files = not task.factory and task.name == "files"
    other = f"task.factory = {task.factory!r}" if task.factory else f'task.name = "{task.name}"'
    given = [
        f"data.{key}"
        for key in _OF_FILES
        if getattr(data, key) != type(data).model_fields[key].get_default(call_default_factory=True)
    ]
    union = [name for name, categories in data.categorical.items() if categories == "union"]
    mean = [name for name, value in data.impute.items() if value == "mean"]
    imputed = {name.strip() for name in data.impute}
    unfilled = [name for name in data.flag_missing if not {name.strip(), "*"} & imputed]
    both = [name for name in data.categorical if name in data.impute]
    taken = [*data.categorical, *data.impute, *data.flag_missing, *data.center, *data.scale, *data.columns]
    idle = [name for name in data.drop if name in taken]
    targets = _targets(data)
    used = {"drop": data.drop, "columns": data.columns, "id": [data.id or ""]}
    twice = [f"data.{key}" for key, names in used.items() if targets & {name.strip() for name in names}]
    return [
        (
            bool(twice) and files,
            f"{' and '.join(twice)} would make the target {data.target!r}, which is to be learnt, something "
            "else, too: remove the name there, or set another data.target",
        ),
        (
            bool(given) and not files,
            f"{' and '.join(given)} are about columns of files, and {other} reads none: remove them, or set "
            'task.name = "files"',
        ),
        (
            bool(data.drop and data.columns),
            "data.drop and data.columns both say which columns are features: remove data.drop",
        ),
        (
            bool(idle),
            f"data.drop passes {', '.join(map(repr, idle))} over, and another key of [data] is about it: "
            "remove the name from one",
        ),
        (
            bool(both),
            f"data.impute has {', '.join(map(repr, both))}, which is in data.categorical: empty cells of a "
            'column of categories go into the category "missing"; remove the name from data.impute',
        ),
        (
            bool(unfilled),
            f"data.flag_missing has {', '.join(map(repr, unfilled))}, and nothing says what stands for its "
            "missing values: add the name to data.impute",
        ),
        (
            bool(union) and unit != "none",
            f'data.categorical.{union[0] if union else ""} = "union" tells which categories records have, '
            f'and privacy.unit = "{unit}" protects that: list the categories, which are public then, '
            'such as ["a", "b", "other"]',
        ),
        (
            bool(mean) and unit != "none",
            f'data.impute = "mean" adds up records, and privacy.unit = "{unit}" has no noise for that: set '
            "publicly known constants, such as data.impute = {age = 50}, with data.flag_missing beside it "
            "where it matters that a value is missing",
        ),
    ]


def head_rules(config: Config) -> list[Rule]:
    """What is learnt, and what [privacy] protects of targets."""
    task, unit = config.task, config.privacy.unit
    given = [
        f"task.{key}"
        for key, unset in (("head", "classification"), ("class_weights", None), ("intervals", None))
        if getattr(task, key) != unset
    ]
    other = f"task.factory = {task.factory!r}" if task.factory else f'task.name = "{task.name}"'
    return [
        (
            bool(given) and (bool(task.factory) or task.name != "files"),
            f"{' and '.join(given)} are about files, and {other} reads none: remove them, or set "
            'task.name = "files"',
        ),
        (
            task.class_weights == "balanced" and unit != "none",
            f'task.class_weights = "balanced" counts records, and privacy.unit = "{unit}" has no noise for '
            "that: set publicly known weights, such as task.class_weights = {ill = 5, well = 1}",
        ),
        (
            isinstance(task.intervals, int) and unit != "none",
            f"task.intervals = {task.intervals} takes the times of events, and privacy.unit = "
            f'"{unit}" has no noise for that: set the ends, which are public then, such as [90, 180, 365]',
        ),
        (
            task.head == "regression" and config.train.dtype == "bfloat16",
            'train.dtype = "bfloat16" rounds the target of task.head = "regression" to three digits, too: '
            'set train.precision = "bfloat16" instead, which keeps it',
        ),
    ]


def _targets(data: DataConfig) -> set[str]:
    given = [data.target] if isinstance(data.target, str) else data.target
    return {name.strip() for name in given}


def _of_target_alone(config: Config) -> bool:
    """Whether constants scale the target of a regression, and no feature."""
    names = {name.strip() for name in (*config.data.center, *config.data.scale)}
    return config.task.head == "regression" and names <= _targets(config.data)
