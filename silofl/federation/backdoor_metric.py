"""How often a rehearsed backdoor succeeds, among the metrics of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import nn

from silofl.attacks.backdoor import Backdoor
from silofl.config import Config
from silofl.errors import ConfigError
from silofl.tasks.base import Metric, SiloData, Task
from silofl.tasks.metrics import Ratio
from silofl.tasks.user_code import UserCode
from silofl.training.evaluate import Evaluated, reported

NAME = "backdoor"
"""Of the metric."""


def evaluated(task: Task, config: Config, code: UserCode) -> Evaluated:
    """What a task's models are evaluated by: itself, or with the success of the backdoor of [attack]."""
    attack = config.attack.attack
    return _WithBackdoor(task, attack, code) if isinstance(attack, Backdoor) else task


def refuse_unknown_target(config: Config, model: nn.Module, data: SiloData, silo: int) -> None:
    """Raise ConfigError where the backdoor of [attack] means a class that the model of an attacker has not.

    Not collective. A model without an output for each class is not asked.
    """
    attack = config.attack.attack
    if not isinstance(attack, Backdoor) or silo not in attack.silos:
        return
    trained, device = model.training, next(model.parameters()).device
    try:
        with torch.no_grad():
            outputs = model.eval()(data.train[0][0][None].to(device))
    finally:
        model.train(trained)
    if outputs.ndim == 2 and 1 < outputs.shape[1] <= attack.target:
        raise ConfigError(
            f"attack.target = {attack.target} is no class of the task, whose model has outputs for 0 to "
            f"{outputs.shape[1] - 1}: set it to one of them",
            rank=silo,
        )


@final
class _WithBackdoor:
    """A task whose metrics have `backdoor`: which part of samples of other classes is taken for the target.

    The samples have the patch. A model without an output for each class has no such metric.
    """

    def __init__(self, task: Task, attack: Backdoor, code: UserCode) -> None:
        self._task, self._attack, self._code = task, attack, code

    def evaluate(self, model: nn.Module, batch: Any) -> Mapping[str, Metric]:
        """See `OnePassTask`."""
        found: Mapping[str, Metric] = reported(self._task, model, batch, self._code)
        if not (isinstance(batch, list | tuple) and len(batch) == 2):
            return found
        samples, labels = batch
        patched = torch.from_numpy(self._attack.patched(samples.cpu().numpy())).to(samples.device)
        with self._code.calling("model", type(model).forward):
            outputs = model(patched)
        if outputs.ndim != 2 or outputs.shape[1] < 2 or labels.ndim != 1:
            return found
        others = labels != self._attack.target
        taken = (outputs.argmax(dim=1) == self._attack.target) & others
        return {**found, NAME: Ratio(taken.sum(), others.sum())}
