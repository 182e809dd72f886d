"""Hooks of a model: what a forward pass adds of them is neither shared nor kept."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from torch import nn

from silofl.errors import DataError
from silofl.training.slots import plain_name, slots_of

Tables = dict[tuple[str, str], MutableMapping[int, Any]]
_OF_TENSORS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def hook_tables(module: nn.Module) -> Tables:
    """Every table of hooks that there is: by the name of its module or parameter, and its own."""
    return dict(_tables(module))


def hooks_of(module: nn.Module) -> dict[tuple[str, str], set[int]]:
    """The numbers of all hooks, by table; tables without any are left out."""
    return {place: set(hooks) for place, hooks in hook_tables(module).items() if hooks}


def _tables(module: nn.Module) -> Iterator[tuple[tuple[str, str], MutableMapping[int, Any]]]:
    for name, one in module.named_modules():
        for table, hooks in vars(one).items():
            if "_hooks" in table and isinstance(hooks, MutableMapping):
                yield (plain_name(name) or "the model", table), hooks
    for slot in slots_of(module):
        for table in _OF_TENSORS:
            if isinstance(hooks := getattr(slot.tensor, table, None), MutableMapping):
                yield (slot.name, table), hooks


def refuse_added(before: dict[tuple[str, str], set[int]], after: Tables, silo: int) -> None:
    """Raise DataError for a hook of forward or backward passes that is there now and was not `before`."""
    for place, hooks in after.items():
        computing = place[1].startswith(("_forward", "_backward", "_post"))
        if computing and set(hooks) - before.get(place, set()):
            raise DataError(
                f"silo {silo}: every training step adds a hook to {place[0]} ({place[1].strip('_')}) and "
                "leaves it there, so that later steps, and a resumed run, would compute something else: "
                "register it in model(), or remove() it at the end of the step",
                rank=silo,
            )
