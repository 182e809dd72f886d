"""Optimizers that do not load torch's compiler, which is a third of what a rank has to load.

Torch marks an optimizer's methods so that compiled code leaves them alone, and loads all of its compiler to
do so, whether anything is compiled or not: 2 s of processor time for each rank of a run that starts, and for
each silo that comes back. Nothing here is ever compiled, so the marks can be left out. Where torch has these
methods otherwise than it is known to (torch/_compile.py and torch/optim/optimizer.py of 2.13), or its
compiler is loaded already, all stays as it is.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
import torch._compile

COMPILER = "torch._dynamo"


def leave_unmarked() -> None:
    """Before an optimizer is made: its class's methods are taken for marked already."""
    if COMPILER in sys.modules:
        return
    for method in vars(torch.optim.Optimizer).values():
        if isinstance(method, FunctionType) and method.__code__.co_filename == torch._compile.__file__:
            plain = getattr(method, "__wrapped__", None)
            if isinstance(plain, FunctionType):
                vars(plain).setdefault("__dynamo_disable", plain)


def step_unmarked(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer the `step` of its class without the mark; hooks and profiling stay."""
    plain = _unmarked(type(optimizer).step)
    if COMPILER in sys.modules or plain is None:
        return

    @functools.wraps(plain)
    def step(self: Any, *arguments: Any, **keywords: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return plain(self, *arguments, **keywords)

    hooked: Any = MethodType(torch.optim.Optimizer.profile_hook_step(step), optimizer)
    optimizer.step = hooked  # type: ignore[method-assign]


def _unmarked(step: Any) -> Callable[..., Any] | None:
    """What torch's `_use_grad_for_differentiable` was put around; None where it was not."""
    while isinstance(step, FunctionType):
        inside: Any = getattr(step, "__wrapped__", None)
        if step.__code__.co_name == "_use_grad":
            return inside  # type: ignore[no-any-return]
        step = inside
    return None
