"""What a run keeps of its privacy from start to end, as its silos tell each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from silofl.errors import ConfigError
from silofl.privacy.bands import INDEPENDENT, BandMatrix
from silofl.privacy.ledger import Ledger


@dataclass
class PrivacyParameters:
    """What a run keeps of its privacy from start to end; JSON, and no secret."""

    nonce: str
    noise_multiplier: float
    clip_norm: float
    coefficients: Sequence[int] = INDEPENDENT.coefficients
    """Of the matrix by which noise is correlated, in 64ths."""


def told_state(state: Any) -> dict[str, Any] | None:
    """Another silo's `PrivacyEngine.state()`, as others may be told of it; an error for what is none."""
    if state is None:
        return None
    parameters = PrivacyParameters(**state["parameters"])
    if not all(math.isfinite(number) for number in (parameters.noise_multiplier, parameters.clip_norm)):
        raise ValueError("numbers that are none")
    BandMatrix(tuple(parameters.coefficients))
    Ledger.from_json(state["ledger"])
    told: dict[str, Any] = state
    return told


def refuse_other_bands(matrix: BandMatrix, bands: int) -> None:
    """ConfigError where a run's noise is of other bands than its configuration has now."""
    if matrix.bands != bands:
        raise ConfigError(
            f"privacy.bands = {bands}, and the run's noise is of {matrix.bands}: leave privacy.bands as it "
            "was, or begin another run",
            rank=0,
        )
