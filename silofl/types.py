"""What a round's sum takes and gives. d is the number of values of a vector, n the number of silos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.floating[Any]]
"""float32 or float64 (d,)."""
Words = NDArray[np.unsignedinteger[Any]]
"""uint8, uint16 or uint32 (k,): integers modulo 2^bits, as they travel."""
Mask = NDArray[np.bool_]
"""Of each parameter, whether it is left after pruning, (P,)."""

ReduceOp = Literal["sum", "min", "max"]
RingBits = Literal[8, 16, 32]

Weighting = Literal["samples", "uniform", "round"]
"""By what silos are averaged: their sample counts, equally, or a `Contribution.weight` of the round."""


MetricValue = float | None | list[Any]
"""A metric as JSON has it: None where it is no number, nested lists for a tensor."""


@dataclass(frozen=True)
class Contribution:
    """What one silo brings to a round's sum. It never leaves its rank in the clear.

    Attributes:
        vectors: by name, float32 or float64 (d_name,); the same names and lengths on every silo.
        scalars: by name; added up exactly in the same sum, so that they survive a rank failure with it.
        weight: of this silo's vectors whose weighting is "round"; above 0 and finite.
    """

    vectors: Mapping[str, Vector]
    scalars: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True)
class Total:
    """One slice of a round's sum: of every named vector the values that one owner serves.

    Attributes:
        mean: by name, the weighted mean over the silos in the sum, (k_name,).
        scalars: by name, the mean over those silos, weighted by their sample counts.
        silos: how many silos are in the sum.
        all_silos: how many the run has.
        resync: whether silos sent absolute values of their state: see `LocalRound.resync`.
        rows: by name, every silo's slice in the order of their numbers, (k_name,) each; None where only the
            sum is known, as under every secure protocol without buckets.
        weights: by name, of those rows, what each silo's is multiplied by in the mean, float64 (n,).
        members: numbers of the silos in the sum, in the order of rows.
        buckets: the silos of each row where rows are means of buckets; empty where each is a silo's own.
        round_number: of the round, from 1.
        over_slices: float64 (s,), the sum over all slices of what `Strategy.part` gives of each; empty in
            `part` itself, and where a strategy has none.
    """

    mean: Mapping[str, Vector]
    scalars: Mapping[str, float]
    silos: int
    all_silos: int
    resync: bool = False
    rows: Mapping[str, list[Vector]] | None = None
    weights: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    members: tuple[int, ...] = ()
    buckets: tuple[tuple[int, ...], ...] = ()
    round_number: int = 0
    over_slices: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
