"""Mixed precision of forward passes, as `train.precision` names it."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from silofl.config import TrainConfig

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(config: TrainConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """While operations choose their types on a device; nothing where precision is full."""
    if config.precision == "full":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_TYPES[config.precision])
