"""Heads: what a model of files learns, one file each. Importing this package loads no torch."""

from __future__ import annotations

from silofl.config import DataConfig, TaskConfig
from silofl.errors import ConfigError, unknown_name
from silofl.tasks.heads.base import Head
from silofl.tasks.heads.classification import ClassificationHead
from silofl.tasks.heads.multilabel import MultiLabelHead
from silofl.tasks.heads.regression import RegressionHead
from silofl.tasks.heads.survival import SurvivalHead

__all__ = ["HEADS", "Head", "head_of"]

HEADS: dict[str, type[Head]] = {
    "classification": ClassificationHead,
    "regression": RegressionHead,
    "multilabel": MultiLabelHead,
    "survival": SurvivalHead,
}
"""By the value of `task.head`."""


def head_of(task: TaskConfig, data: DataConfig) -> Head:
    """That of a configuration. Raises ConfigError where there is none, or its keys do not go together."""
    if "cox" in task.head.lower():
        raise ConfigError(
            f"task.head = {task.head!r}: in Cox's partial likelihood records meet in risk sets, so that no "
            "loss is one record's own, as local steps, gradients of single examples and [privacy] need it: "
            "set task.head = 'survival', hazards of intervals of time"
        )
    if task.head not in HEADS:
        raise unknown_name("task.head", task.head, HEADS)
    return HEADS[task.head].of(task, data)
