"""Federated learning across institutions on MPI.

`silofl.train(config, task)` runs a federation; `silofl.secure_sum(x, comm=comm)` and `SecureAggregator` are
the secure sum by itself. They are loaded when first used, so that the command starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silofl.aggregation.secure_sum import SecureAggregator, secure_sum
    from silofl.federation.entry import train

__version__ = "0.1.0"
__all__ = ["SecureAggregator", "__version__", "secure_sum", "train"]

_HOMES = {
    "SecureAggregator": "silofl.aggregation.secure_sum",
    "secure_sum": "silofl.aggregation.secure_sum",
    "train": "silofl.federation.entry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'silofl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
