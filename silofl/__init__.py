"""Federated learning across institutions on MPI.

    result = silofl.simulate("launch/digits.toml", silos=4)   # in this process, such as a notebook
    result = silofl.train("launch/digits.toml")               # on the ranks of an mpirun
    model = silofl.load("runs/hospitals")                     # a trained model, ready to use
    total = silofl.secure_sum(x, comm=comm)                   # the secure sum by itself

`help()` of each has examples. Names are loaded when they are first used, so that the command starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silofl.aggregation.secure_sum import SecureAggregator, secure_sum
    from silofl.config import Config
    from silofl.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        DivergedError,
        MismatchError,
        MissingDependencyError,
        ProtocolError,
        SiloflError,
        StoppedError,
        StorageError,
        TrainingError,
        UserCodeError,
    )
    from silofl.federation.entry import train
    from silofl.federation.run_result import Result
    from silofl.federation.simulation import simulate
    from silofl.inference.loading import load
    from silofl.inference.trained_model import TrainedModel
    from silofl.tasks.base import Optimizers, SiloData, Task

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("SecureAggregator", "secure_sum"), "silofl.aggregation.secure_sum"),
    "Config": "silofl.config",
    **dict.fromkeys(
        (
            *("CheckpointError", "ConfigError", "DataError", "DivergedError", "MismatchError"),
            *("MissingDependencyError", "ProtocolError", "SiloflError", "StoppedError", "StorageError"),
            *("TrainingError", "UserCodeError"),
        ),
        "silofl.errors",
    ),
    "Result": "silofl.federation.run_result",
    "simulate": "silofl.federation.simulation",
    "train": "silofl.federation.entry",
    "load": "silofl.inference.loading",
    "TrainedModel": "silofl.inference.trained_model",
    **dict.fromkeys(("Optimizers", "SiloData", "Task"), "silofl.tasks.base"),
}

__all__ = [
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "DivergedError",
    "MismatchError",
    "MissingDependencyError",
    "Optimizers",
    "ProtocolError",
    "Result",
    "SecureAggregator",
    "SiloData",
    "SiloflError",
    "StoppedError",
    "StorageError",
    "Task",
    "TrainedModel",
    "TrainingError",
    "UserCodeError",
    "__version__",
    "load",
    "secure_sum",
    "simulate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'silofl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
