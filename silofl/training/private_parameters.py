"""Which parameters and buffers stay with their silo, by the patterns of the task's attribute `private`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from silofl.errors import DataError


def private_names(tensors: Mapping[str, Tensor], patterns: Sequence[str]) -> frozenset[str]:
    """Which of a model's tensors, by all names that each has, match a pattern (fnmatch).

    Raises:
        DataError: `patterns` is one text, a pattern matches nothing, or a tensor with two names matches by
            one of them only.
    """
    if isinstance(patterns, str):
        raise DataError(
            f"the task's attribute private is the text {patterns!r}: make it a sequence, ({patterns!r},)"
        )
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in tensors):
            raise DataError(
                f"the private pattern {pattern!r}, of the task or of personal.layers, matches no parameter "
                f"and no buffer of the model: use names such as {next(iter(tensors), 'head.weight')!r}"
            )
    names = {name for name in tensors if any(fnmatchcase(name, pattern) for pattern in patterns)}
    kept = {id(tensors[name]): name for name in names}
    for name, tensor in tensors.items():
        if id(tensor) in kept and name not in names:
            raise DataError(
                f"the task keeps {kept[id(tensor)]} private and shares {name}, which are one tensor: "
                "let its private patterns match both or neither"
            )
    return frozenset(names)
