"""Products of float32 that torch makes of rounder numbers, where a bound on norms needs all their digits."""

from __future__ import annotations

from operator import attrgetter

import torch

_SETTINGS = {
    "cpu": ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"),
    "cuda": ("cuda.matmul", "cudnn.conv", "cudnn.rnn"),
}


def keep_digits(device: torch.device) -> None:
    """Have convolutions on a GPU take float32 as it is: cuDNN makes TF32, of 10 bits, of it by default."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False


def rounder_than_float32(device: torch.device) -> str | None:
    """The setting of torch by which products on this device lose digits, with its value; None without one."""
    for name in _SETTINGS.get(device.type, ()):
        value = getattr(attrgetter(name)(torch.backends), "fp32_precision", None)
        if value is None:  # torch before 2.9 has one setting of all products
            value = torch.get_float32_matmul_precision()
            return None if value == "highest" else f"torch.set_float32_matmul_precision({value!r})"
        if value not in {"none", "ieee"}:
            return f'torch.backends.{name}.fp32_precision = "{value}"'
    return None
