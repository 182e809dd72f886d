"""The optimizers of a task's `optimizers(model)`, with their schedulers, as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from silofl.errors import ConfigError
from silofl.tasks.base import Optimizers
from silofl.training.flat import FlatModel
from silofl.training.unmarked import step_unmarked

TAKEN, PARTS = "taken", "parts"
"""In a state: how often schedulers have stepped, and the optimizers' own states."""


@final
class OwnOptimizers(torch.optim.Optimizer):
    """Several optimizers that step together, and schedulers that step after each step or round.

    What schedulers make of rates follows from how often they have stepped, so that this number is all that a
    checkpoint has of them; it is made good when a state is loaded.

    Args:
        parameters: all that are trained, whose gradients are cleared before a step.
        parts: the optimizers.
        schedulers: of those.
        over: when schedulers step.
        calling: in which schedulers, which may be a user's own, are called.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        parts: Sequence[torch.optim.Optimizer],
        schedulers: Sequence[LRScheduler],
        over: Literal["rounds", "steps"],
        calling: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(parameters, {})
        self.parts, self.schedulers = tuple(parts), tuple(schedulers)
        self._over, self._calling, self._taken = over, calling, 0
        for part in parts:
            step_unmarked(part)
            if schedulers:
                _mark_stepped(part)

    def begin(self, round_number: int, *, keep: bool) -> None:
        """Turn to a round: with moments anew, but where they are to be kept."""
        if not keep:
            self.forget()
        if self._over == "rounds":
            self._follow(round_number - 1)

    def forget(self) -> None:
        """Begin moments anew; rates go on."""
        for part in self.parts:
            part.state.clear()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step of all."""
        for part in self.parts:
            part.step()
        if self._over == "steps":
            self._follow(self._taken + 1)

    def _follow(self, taken: int) -> None:
        """Let schedulers have stepped so often."""
        with self._calling():
            while self.schedulers and self._taken < taken:
                for scheduler in self.schedulers:
                    scheduler.step()
                self._taken += 1

    def progress(self) -> dict[str, Any]:
        """What is kept whether or not moments are: steps of schedulers, and what groups have of their own."""
        return {TAKEN: self._taken, PARTS: [{**part.state_dict(), "state": {}} for part in self.parts]}

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs."""
        return {TAKEN: self._taken, PARTS: [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up an earlier `state_dict()`, or `progress()`."""
        self._follow(int(state_dict[TAKEN]))
        for part, state in zip(self.parts, state_dict.get(PARTS, ()), strict=False):
            part.load_state_dict(state)


def own_optimizers(
    given: Any, model: FlatModel, silo: int, calling: Callable[[], AbstractContextManager[None]]
) -> OwnOptimizers:
    """What a task's `optimizers` returned, as one optimizer.

    Raises ConfigError, in one sentence, where it is none, steps what is no trained parameter of the model, or
    has schedulers that cannot step with it.
    """

    def refusal(what: str) -> ConfigError:
        return ConfigError(f"silo {silo}: the task's optimizers(model) {what}", rank=silo)

    found = _named(given)
    parts, schedulers = _listed(found.optimizers), _listed(found.schedulers)
    for one in parts:
        if not isinstance(one, torch.optim.Optimizer):
            raise refusal(
                f"returned a {type(one).__name__}: return a torch optimizer, several in a list, or a pair of "
                "them and their schedulers"
            )
    if not parts:
        raise refusal("returned no optimizer: return one, such as torch.optim.AdamW(model.parameters())")
    if found.over not in ("rounds", "steps"):
        raise refusal(f'has schedulers over {found.over!r}: set Optimizers(over=...) to "rounds" or "steps"')
    trained, seen = {id(one) for one in model.trained.values()}, set[int]()
    for group in (group for one in parts for group in one.param_groups):
        for parameter in group["params"]:
            if id(parameter) not in trained:
                raise refusal(
                    f"has a parameter {tuple(parameter.shape)} that is no trained one of the model: give it "
                    "parameters of the model that it is called with, that require gradients"
                )
            if id(parameter) in seen:
                raise refusal("has one parameter in two optimizers: let each be in one")
            seen.add(id(parameter))
    for one in schedulers:
        if isinstance(one, ReduceLROnPlateau):
            raise refusal(
                "has a ReduceLROnPlateau, which waits for a metric, and local steps have none: use a "
                "scheduler that goes by numbers, and run.stop_when"
            )
        if not isinstance(one, LRScheduler):
            raise refusal(f"has a {type(one).__name__} for a scheduler: use one of torch.optim.lr_scheduler")
        if all(one.optimizer is not part for part in parts):
            raise refusal(f"has a {type(one).__name__} of another optimizer: make it of one that it returns")
    return OwnOptimizers(model.trained.values(), parts, schedulers, found.over, calling)


def _mark_stepped(optimizer: torch.optim.Optimizer) -> None:
    """What torch's schedulers look for, and warn where they miss it: `step` is theirs, and was called.

    `step_unmarked` has put another in its place, and a resume has schedulers follow before there is a step.
    """
    function = getattr(optimizer.step, "__func__", None)
    if function is not None:
        vars(function)["_wrapped_by_lr_sched"] = True
    vars(optimizer)["_opt_called"] = True


def _named(given: Any) -> Optimizers:
    if isinstance(given, Optimizers):
        return given
    if isinstance(given, tuple) and len(given) == 2 and not _all_optimizers(given):
        return Optimizers(*given)
    return Optimizers(given)


def _all_optimizers(given: Sequence[Any]) -> bool:
    return all(isinstance(one, torch.optim.Optimizer) for one in given)


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]
