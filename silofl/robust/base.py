"""What a robust rule is: a mean that up to f of n silos cannot move far, whatever they send.

A rule is one file of this folder: a final frozen dataclass whose fields are the keys of [robust]. Every silo
counts once, for a sample count is a silo's own word. `topologies/robust_steps.py` puts a rule between the
sum and a strategy's step; `aggregate` applies one to whole vectors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from silofl.constrained import NonNegativeInt, PositiveInt
from silofl.robust._before import buckets, clipped, mixed
from silofl.robust._far import drawn_near
from silofl.robust._points import Matrix, Points
from silofl.types import Vector

Beside = Literal["zero", "median", "center"]
"""Vectors beside the updates: zeros, the coordinate median, and what the rule gave in the round before."""


@dataclass(frozen=True)
class Scene:
    """What a rule knows of a round.

    Attributes:
        f: how many of the updates may be anything.
        silos: whose updates they are, in their order.
        named: coefficients (m,) of the vectors beside them, by name.
        rng: what is drawn with, the same on all ranks, another in each round.
    """

    f: int
    silos: tuple[int, ...]
    named: Mapping[Beside, NDArray[np.float64]] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


@dataclass(frozen=True)
class RobustRule:
    """A rule. The base changes nothing: sums stay weighted means."""

    paper: ClassVar[str] = ""
    """Where it is from."""

    @property
    def active(self) -> bool:
        """Whether the mean is replaced."""
        return False


@dataclass(frozen=True)
class ResilientRule(RobustRule, ABC):
    """A rule that goes coordinate by coordinate, after steps that make it fit for data that differ.

    Those steps, in this order: `clip`, `bucket`, `mix`.
    """

    f: NonNegativeInt = 1
    """How many silos may send anything."""
    clip: bool = False
    """Before the rule, clip the longest 2 f (n - f) / n of n updates to the length of the next (adaptive
    robust clipping, ARC: Allouah et al. 2025)."""
    bucket: PositiveInt = 1
    """Give the rule means of so many updates each, of silos that are drawn (bucketing: Karimireddy et al.
    2022); 1 for the updates themselves. Under a secure sum, of so many or more, at least 3."""
    redraw: PositiveInt | None = None
    """Rounds after which buckets are drawn anew; unset, every round, and under a secure sum, of which several
    draws show single silos' mean updates, only when silos come or go."""
    mix: bool = False
    """Give the rule, in the place of each update, the mean of the n - f nearest to it, itself among them
    (nearest-neighbour mixing, NNM: Allouah et al. 2023)."""

    whole: ClassVar[bool] = False
    """Whether distances of whole vectors decide, also without a step before."""
    bounds: ClassVar[bool] = False
    """Whether it may have an `own_bound`."""
    center: ClassVar[bool] = False
    """Whether it goes on from what it gave in the round before, which the servers of slices keep."""

    @property
    def active(self) -> bool:
        """See `RobustRule`."""
        return True

    @property
    def own_bound(self) -> float | None:
        """Length that each silo can cut its own update to before it is added up; None where there is none."""
        return None

    @property
    def measures(self) -> bool:
        """Whether it asks for distances of whole vectors."""
        return self.whole or self.clip or self.mix

    def beside(self) -> tuple[Beside, ...]:
        """Which vectors beside the updates it asks for the distances of."""
        return ("zero",) if self.clip else ()

    def fewest(self, f: int) -> int:
        """Of how many updates at least it is a rule, where `f` of them may be anything."""
        return 2 * f + 1

    @property
    def fewest_silos(self) -> int:
        """Of how many silos a round has to be."""
        return self.bucket * (self.fewest(self.f) - 1) + 1

    def refusal(self, silos: int) -> str | None:
        """Why so many updates are too few, naming key, value and remedy; None where they are enough."""
        given, needed = math.ceil(silos / self.bucket), self.fewest(self.f)
        if given >= needed:
            return None
        what = f"{silos} silo{'s' * (silos != 1)}"
        what = what if self.bucket == 1 else f"{given} bucket{'s' * (given != 1)} of {what}"
        fitting = [f for f in range(self.f) if given >= self.fewest(f)]
        remedy = f"set it to {fitting[-1]}" if fitting else "start more silos"
        return (
            f"robust.f = {self.f} is too large for {what}, for the rule needs {needed}: {remedy}, or choose "
            + ("another robust.name" if self.bucket == 1 else "more silos for buckets of this size")
        )

    def refusal_of_run(self, silos: int, drawn: int) -> str | None:
        """Why it cannot be had of `silos`, of which so many are drawn for each round; None where it can."""
        return self.refusal(drawn)

    def prepared(self, points: Points, scene: Scene) -> Points:
        """What the rule is given of the updates."""
        if self.clip and scene.f:
            points = clipped(points, scene.named["zero"], scene.f)
        if self.bucket > 1:
            points = points.mixed(buckets(len(points), self.bucket, scene.rng))
        return mixed(points, scene.f) if self.mix else points

    def choose(self, points: Points, scene: Scene) -> Matrix:
        """The combinations (q, m) that `along` is given."""
        return points.combinations

    @abstractmethod
    def along(self, rows: Sequence[Vector], f: int, out: Vector) -> None:
        """Write what the rule makes of rows (k,), at least one, over `out` (k,)."""


@dataclass(frozen=True)
class WeighingRule(ResilientRule):
    """A rule that gives a weighted sum of the updates, by weights that distances of whole vectors decide."""

    whole: ClassVar[bool] = True

    @abstractmethod
    def weigh(self, points: Points, scene: Scene) -> NDArray[np.float64]:
        """The combination (m,) that it gives."""

    def choose(self, points: Points, scene: Scene) -> Matrix:
        """See `ResilientRule`."""
        return self.weigh(points, scene)[None]

    def along(self, rows: Sequence[Vector], f: int, out: Vector) -> None:
        """See `ResilientRule`: there is one row."""
        out[:] = rows[0]


def measure(rule: ResilientRule, rows: Sequence[Vector], center: Vector | None) -> NDArray[np.float64]:
    """A slice's part of what a rule knows of whole vectors, float64: (m m,) squared distances, or (n,) zeros.

    m are the n updates (k,) and the vectors beside them. NaN on the diagonal, or in the place of a zero, is
    of a vector with values that are not finite. Parts of slices are added up.
    """
    from silofl_kernels import max_abs, squared_distances  # which load the kernels' compiler

    if not rule.measures:
        return np.array([0.0 if math.isfinite(max_abs(row)) else math.nan for row in rows])
    return squared_distances([*rows, *_beside(rule, rows, center).values()]).ravel()


def apply(
    rule: ResilientRule,
    rows: Sequence[Vector],
    known: NDArray[np.float64],
    silos: tuple[int, ...],
    rng: np.random.Generator,
    *,
    center: Vector | None,
    out: Vector,
) -> tuple[int, ...]:
    """Write what a rule makes of a slice's updates (k,) over `out` (k,); the silos whose are not finite.

    Those are left out, and count as some of the `f`. `known` is the sum over all slices of what `measure`
    gives. Raises ValueError, of one sentence, where too few updates are left for the rule.
    """
    count, size = len(rows), math.isqrt(len(known))
    good = (
        _finite(known.reshape(size, size), count)
        if rule.measures
        else [k for k in range(count) if known[k] == 0]
    )
    rejected = tuple(silo for index, silo in enumerate(silos) if index not in good)
    if 2 * len(good) <= count:
        raise ValueError(
            f"{len(rejected)} of {count} updates have values that are not finite, or too large for their "
            f"distances to be, those of {_named(rejected)}: no rule is of so few others; lower train.lr or "
            "set train.clip_norm, and look at the data of a silo that is alone in it"
        )
    f = max(0, rule.f - len(rejected))
    if len(good) < rule.fewest(f) or math.ceil(len(good) / rule.bucket) < rule.fewest(f):
        raise ValueError(
            f"robust.f = {rule.f} is too large for the {len(good)} updates of finite values that are left of "
            f"{count}, without {_named(rejected)}: lower it, or choose another robust.name"
        )
    used = [rows[index] for index in good]
    beside = _beside(rule, used, center) if rule.measures else {}
    squares = made_of = np.eye(len(good) + len(beside))
    if rule.measures:
        kept = [*good, *range(count, size)]
        squares, made_of = drawn_near(known.reshape(size, size)[np.ix_(kept, kept)], len(good))
    every = np.eye(len(squares))
    named = {name: every[len(good) + number] for number, name in enumerate(beside)}
    scene = Scene(f, tuple(silos[index] for index in good), named, rng)
    points = rule.prepared(Points(every[: len(good)], squares, made_of), scene)
    chosen = rule.choose(points, scene) @ points.made_of
    rule.along([_combined([*used, *beside.values()], one) for one in chosen], f, out)
    return rejected


def aggregate(
    rule: ResilientRule, rows: Sequence[Vector], *, center: Vector | None = None, seed: int = 0
) -> Vector:
    """What a rule makes of whole updates (n, d) or n vectors (d,), float32 or float64; a new vector (d,).

    Updates whose values are not finite are left out. Raises ValueError where `rule.f` is too large.
    """
    rows = [np.ascontiguousarray(row) for row in rows]
    refusal = rule.refusal(len(rows))
    if refusal is not None:
        raise ValueError(refusal)
    out = np.empty_like(rows[0])
    center = np.zeros_like(out) if center is None else center
    known, silos = measure(rule, rows, center), tuple(range(len(rows)))
    apply(rule, rows, known, silos, np.random.default_rng(seed), center=center, out=out)
    return out


def _named(silos: tuple[int, ...]) -> str:
    return f"silo{'s' * (len(silos) > 1)} {', '.join(map(str, silos))}"


def _finite(squares: Matrix, count: int) -> list[int]:
    """Which of `count` vectors are finite, and no farther from the others than float64 can say."""
    good = [index for index in range(count) if squares[index, index] == 0]
    while good:
        lost = (~np.isfinite(squares[good][:, [*good, *range(count, len(squares))]])).sum(axis=1)
        if not lost.any():
            break
        good.pop(int(lost.argmax()))
    return good


def _beside(rule: ResilientRule, rows: Sequence[Vector], center: Vector | None) -> dict[Beside, Vector]:
    from silofl_kernels import max_abs, median

    found: dict[Beside, Vector] = {}
    for name in rule.beside():
        vector = np.zeros_like(rows[0])
        if name == "median":
            finite = [row for row in rows if math.isfinite(max_abs(row))]
            median(finite or [vector.copy()], vector)
        elif name == "center" and center is not None:
            vector = center
        found[name] = vector
    return found


def _combined(vectors: Sequence[Vector], weights: NDArray[np.float64]) -> Vector:
    """A combination of vectors (k,): one of them as it is, or a new one."""
    from silofl_kernels import reduce_rows_float

    used = [int(index) for index in np.flatnonzero(weights)]
    if len(used) == 1 and weights[used[0]] == 1:
        return vectors[used[0]]
    out = np.zeros_like(vectors[0])
    if used:
        reduce_rows_float([vectors[index] for index in used], out, weights=weights[used])
    return out
