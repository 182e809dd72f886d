"""Parameters of a model that torch does not know of: they are in a plain list, tuple or dict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn


def unregistered_parameters(module: nn.Module) -> list[str]:
    """Names of attributes that hold parameters, or modules with some, which no optimizer gets.

    Those that require no gradient may be hidden on purpose, such as a fixed network of a loss.
    """
    known = {id(parameter) for parameter in module.parameters()}
    return [
        f"{path}.{name}" if path else name
        for path, one in module.named_modules()
        for name, value in vars(one).items()
        if isinstance(value, (list, tuple, dict)) and name not in _OF_MODULES
        if any(p.requires_grad and id(p) not in known for p in _parameters(value))
    ]


_OF_MODULES = frozenset(vars(nn.Module()))


def _parameters(value: Any) -> Iterator[nn.Parameter]:
    for one in value.values() if isinstance(value, dict) else value:
        if isinstance(one, nn.Parameter):
            yield one
        elif isinstance(one, nn.Module):
            yield from one.parameters()
