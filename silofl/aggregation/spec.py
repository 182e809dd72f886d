"""What an aggregator is made for: named vectors, their formats and weights, and this silo's sample count."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.bucketing import Bucketing
from silofl.types import Weighting


@dataclass(frozen=True, eq=False)
class VectorSpec:
    """One named vector of a round's sum.

    Attributes:
        name: as in `Contribution.vectors`.
        size: d_name values.
        format: one of `formats.FORMATS`: "scaled" shares a power-of-two range for each tensor; "exact" loses
            nothing and takes several words a value, for buffers; "words" are ring integers already; "packed"
            has as many values in a word as fit.
        weighting: by what silos are averaged.
        tensors: names of the tensors that the vector is made of, for messages.
        ends: int64 (m,), where each ends in the vector; one tensor when None.
        shapes: of the tensors, where they are known.
        bits: of a value of the "packed" format, on the wire; None: the ring's.
        keeps_error: whether what rounding to that format loses is kept for the silo.
        small: of how many silos the weight is less than half a level of that format; they send one.
    """

    name: str
    size: int
    format: str = "scaled"
    weighting: Weighting = "samples"
    tensors: tuple[str, ...] = ()
    ends: NDArray[np.int64] | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    bits: int | None = None
    keeps_error: bool = False
    small: int = 0

    @property
    def tensor_ends(self) -> NDArray[np.int64]:
        """Where each tensor ends, int64 (m,), m >= 1."""
        return np.array([self.size], np.int64) if self.ends is None else self.ends

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """A name for each tensor."""
        count = len(self.tensor_ends)
        return self.tensors or (
            (self.name,) if count == 1 else tuple(f"{self.name}.{k}" for k in range(count))
        )


@dataclass(frozen=True, eq=False)
class AggregationSpec:
    """What is added up, by whom.

    Attributes:
        vectors: those of every contribution, in the order in which they lie on the wire.
        dtype: of the vectors, float32 or float64.
        samples: as how many training samples this silo counts, at least 1; a coordinator as 0.
        seed: of the run; stochastic rounding depends on it.
        config_digest: 32 bytes that every silo's messages are bound to.
        silos: how many the run has in all.
        replica_count: with how many other ranks the sums of each slice lie, in case that its server fails.
        scalars: names of the numbers that are averaged beside the vectors.
        rows: whether every silo's own slices are wanted beside the means.
        recompute: how many other ranks recompute the server's step of each slice, and therefore have its sum
            in memory of their own before it can be read.
        coordinators: ranks that bring nothing to any sum; of the `silos` they are none.
        sole: the one of them that serves everything; None where all silos serve.
        bucketing: where rows are means of buckets: how silos are drawn into them; None: each silo's own.
    """

    vectors: tuple[VectorSpec, ...]
    dtype: np.dtype[np.floating[Any]]
    samples: int
    seed: int
    config_digest: bytes
    silos: int
    replica_count: int = 0
    scalars: tuple[str, ...] = field(default=())
    rows: bool = False
    recompute: int = 0
    coordinators: tuple[int, ...] = ()
    sole: int | None = None
    bucketing: Bucketing | None = None

    def bringing(self, members: tuple[int, ...]) -> tuple[int, ...]:
        """Those of `members` that bring something."""
        return tuple(member for member in members if member not in self.coordinators)

    def vector(self, name: str) -> VectorSpec:
        """The vector of that name."""
        return next(one for one in self.vectors if one.name == name)
