"""Which torch device a rank computes on, what it is set to, and what it tells of late."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from silofl.errors import ConfigError, TrainingError
from silofl.tasks.user_code import ASYNCHRONOUS, LATE

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def device_name(requested: str, gpus: int, local_rank: int) -> str:
    """Return "cpu" or "cuda:i" for a rank, given how many GPUs this process sees.

    `requested`: "auto" (GPUs dealt round among local ranks, the CPU where none is), "cpu", "cuda" (as auto,
    but a GPU there must be) or "cuda:i". Raises ConfigError for anything else or a GPU that is not there.
    """
    if requested == "cpu" or (requested == "auto" and gpus == 0):
        return "cpu"
    if requested in {"auto", "cuda"} and gpus > 0:
        return f"cuda:{local_rank % gpus}"
    kind, _, index = requested.partition(":")
    if kind == "cuda" and index.isdecimal() and int(index) < gpus:
        return f"cuda:{int(index)}"
    if kind == "cuda" and (index == "" or index.isdecimal()):
        msg = f"train.device is {requested!r} but this rank sees {gpus} GPUs: use 'auto' or 'cpu'"
        raise ConfigError(msg)
    raise ConfigError(f"train.device is {requested!r}: use 'auto', 'cpu', 'cuda' or 'cuda:0'")


def prepare(device: torch.device) -> None:
    """Make a GPU the one that a task's own code means by "cuda", and have it add up in one order.

    A round that is taken again has to give the same bits. What torch can do in no fixed order is warned of.
    A task that takes speed instead calls `torch.use_deterministic_algorithms(False)`. Nothing for a CPU.
    """
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    os.environ.setdefault(_WORKSPACE, ":4096:8")  # before cuBLAS is loaded, which reads it once
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def kind(device: torch.device) -> str:
    """The device's kind as it decides the last bits of training: `cpu`, or `cuda (NVIDIA H100)`."""
    return "cpu" if device.type == "cpu" else f"{device.type} ({torch.cuda.get_device_name(device)})"


@contextmanager
def explained(silo: int) -> Iterator[None]:
    """Raise TrainingError, in one sentence, for memory that is used up and for what a GPU tells of late."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise TrainingError(
            f"silo {silo}: its GPU has no memory left in training: lower train.batch_size, set "
            "train.precision = 'bfloat16', or let fewer silos share a GPU",
            rank=silo,
        ) from None
    except ASYNCHRONOUS as error:
        what = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise TrainingError(f"silo {silo}: {what}: {LATE}", rank=silo) from None


def place(requested: str, local_rank: int) -> str:
    """The torch device that `train.device` means for a rank. Raises ConfigError for one that is not there."""
    return device_name(requested, torch.cuda.device_count(), local_rank)
