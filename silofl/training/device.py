"""Which torch device a rank computes on, as a name."""

from __future__ import annotations

from silofl.errors import ConfigError


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
