"""Independent random streams from the run's one seed, the same on every rank and every machine."""

from __future__ import annotations

from typing import Literal

import numpy as np

Purpose = Literal["partition", "roles", "synthetic", "places"]
_KEYS: dict[Purpose, int] = {"partition": 1, "roles": 2, "synthetic": 3, "places": 4}


def stream(seed: int, purpose: Purpose, silo: int = 0) -> np.random.Generator:
    """The generator of (seed, purpose, silo); other arguments give an independent one."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_KEYS[purpose], silo)))
