"""What averaging by hand takes of every model: the state of all silos in, plain steps, as in `settings`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from silofl.training.slots import is_number

SILOS, STEPS, LR = 3, 2, 0.1


def take_up(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what is averaged; what is no number is each model's own."""
    own = model.state_dict()
    model.load_state_dict({key: state[key] if is_number(own[key]) else own[key] for key in own})


def descend(task: Any, model: nn.Module, batch: Any) -> None:
    """So many steps of gradient descent on one batch."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=LR)
    model.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
