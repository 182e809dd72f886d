"""The tail of a masked sum: a few numbers of each silo that ride along behind its vectors."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.exact_numbers import MAGNITUDE, exact_format
from silofl.crypto.capacity import Limbs, decode_weight, encode_weight, weight_limbs
from silofl.errors import DataError
from silofl.types import RingBits, Words
from silofl_kernels import ring_dtype

COARSE = 0.01
"""Relative error of a tensor's encoding above which it is reported."""
LOST = 0.5
"""Relative error above which the values of a tensor are as good as lost: most of them rounded to zero."""
LARGEST_WEIGHT = 2.0**32
"""Weights of a round are between the inverse of this and this."""
ERROR_BITS = 16
"""Binary places of the error that a silo reports: more would tell of its values."""


def valid_weight(weight: float) -> bool:
    """Whether a silo may have this weight in a round; NaN is none."""
    return 1 / LARGEST_WEIGHT <= weight <= LARGEST_WEIGHT


@dataclass(frozen=True)
class EncodingQuality:
    """How well a round's values were encoded; the same on every rank.

    Attributes:
        clipped_silos: silos with values beyond a configured range.
        error: mean over silos of the relative L2 error of their worst tensor, in steps of 2^-16.
        coarse: tensors of which rounding took more than 1 % at some silo, and at how many.
        lost: tensors of which rounding took more than half at some silo, for its values are smaller than the
            range by more than `wire_format.FAR`, and at how many.
        faint: tensors that travel exactly and are so small at some silo that rounding to multiples of 2^-96
            may take more than 1 % of all their values, and at how many.
        widest: of this rank alone: tensors among `lost` whose range its own values asked for, where most
            other silos lost theirs.
        claimed: tensors among `lost` of which most other silos lost theirs, and the silos that asked for the
            range, or do not show that they did not, whatever they say of themselves; empty where that is not
            opened.
    """

    clipped_silos: int = 0
    error: float = 0.0
    coarse: Mapping[str, int] | None = None
    lost: Mapping[str, int] | None = None
    faint: Mapping[str, int] | None = None
    widest: tuple[str, ...] = field(default=(), compare=False)
    claimed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tail:
    """What the tail of a sum tells.

    Attributes:
        weights: sum of the p_i, this sum's part of all sample weights.
        round_weight: sum of the silos' `Contribution.weight`.
        scalars: by name, the sum of p_i times the silo's number.
        quality: how well vectors were encoded.
    """

    weights: float
    round_weight: float
    scalars: Mapping[str, float]
    quality: EncodingQuality


@dataclass(frozen=True)
class OwnTail:
    """What one silo says in the tail.

    Attributes:
        share: p_i, its part of all samples, on the grid of `TailFormat.share`.
        clipped: whether values lay beyond a configured range.
        bad: bool (m,), of every checked tensor whether a value has no words: not finite, or too large.
        errors: float64 (r,), relative error of every rounded tensor.
        far: bool (r,), whether the values of a rounded tensor are far below its range.
        faint: bool (e,), of every exact tensor whether its values are about as small as its words' unit.
        numbers: float64 (1 + s,): the weight of the round, and p_i times each scalar.
        absent: whether the silo brings nothing, and has no weight.
    """

    share: float
    clipped: bool
    bad: NDArray[np.bool_]
    errors: NDArray[np.float64]
    far: NDArray[np.bool_]
    faint: NDArray[np.bool_]
    numbers: NDArray[np.float64]
    absent: bool = False


class TailFormat:
    """Words of the tail: p_i, flags of one word each, the error, exact numbers.

    Args:
        bits: of the ring.
        silos: in the sum.
        checked: names of the tensors that may have values without words, m.
        rounded: names of the tensors that are rounded, r.
        exact: names of the tensors that travel exactly, e.
        scalars: names of the scalars, s.

    Raises:
        ConfigError: so many silos do not fit the ring.
    """

    def __init__(
        self,
        bits: RingBits,
        silos: int,
        checked: tuple[str, ...],
        rounded: tuple[str, ...],
        exact: tuple[str, ...],
        scalars: tuple[str, ...],
    ) -> None:
        self._silos, self._rounded, self._exact, self.scalars = silos, rounded, exact, scalars
        self._dtype = ring_dtype(bits)
        self._checked = (*checked, "weight of the round", *scalars)
        self._weights = weight_limbs(bits, silos)
        self._error = Limbs(bits, silos, ERROR_BITS + 1)
        self._numbers = exact_format(bits, silos)
        flags = 1 + len(self._checked) + 2 * len(rounded) + len(exact)
        numbers = self._numbers.words * (1 + len(scalars))
        ends = [0, *accumulate((self._weights.words, flags, self._error.words, numbers))]
        self._parts = [slice(*part) for part in pairwise(ends)]
        self.words = ends[-1]

    def share(self, share: float) -> float:
        """p_i as the tail has it, a multiple of 2^-40 / n: a weighted mean of equal numbers is exact.

        On a grid that all silos share, the lowest bits of a sum are those of no single silo's count.
        """
        return _on_grid(share, self._weights)

    def encode(self, own: OwnTail) -> Words:
        """uintB (words,): one silo's part of the tail, to be masked."""
        words = np.empty(self.words, self._dtype)
        weight, flags, error, exact = (words[part] for part in self._parts)
        weight[:] = encode_weight(own.share, self._weights)
        unfit = ~(np.abs(own.numbers) < MAGNITUDE)
        unfit[0] |= not (own.absent or valid_weight(own.numbers[0]))
        flags[0] = own.clipped
        lost = own.far & (own.errors > LOST)
        told = [own.bad, unfit, own.errors > COARSE, lost, own.faint]
        np.concatenate(told, out=flags[1:], casting="unsafe")
        worst = float(own.errors.max(initial=0.0))  # perhaps NaN, which counts as 1
        error[:] = self._error.encode(round((worst if worst < 1 else 1.0) * (1 << ERROR_BITS)))
        self._numbers.encode(np.where(unfit, 0.0, own.numbers), exact)
        return words

    def decode(self, sums: Words, silos: int | None = None) -> Tail:
        """The tail of the sum from uintB (words,), over so many silos that bring something; all unless said.

        Raises:
            DataError: naming a tensor or scalar that has no sum, for its values are not finite or too large
                at some silo. On every rank.
        """
        present = self._silos if silos is None else silos
        weights, flags, error, exact = (sums[part] for part in self._parts)
        ends = np.cumsum([1, len(self._checked), len(self._rounded), len(self._rounded)])
        _, checked, coarse, lost, faint = np.split(flags, ends)
        bad = np.flatnonzero(checked)
        if bad.size:
            raise DataError(
                f"{checked[bad[0]]} of {present} silos' {self._checked[bad[0]]} has values that are not "
                "finite, or too large; the sum was not used",
                rank=0,
            )
        numbers = np.empty(1 + len(self.scalars))
        self._numbers.decode(np.ascontiguousarray(exact), numbers)
        mean_error = self._error.decode(error) / (present << ERROR_BITS)
        quality = EncodingQuality(
            int(flags[0]),
            mean_error,
            _counted(self._rounded, coarse),
            _counted(self._rounded, lost),
            _counted(self._exact, faint),
        )
        scalars = dict(zip(self.scalars, map(float, numbers[1:]), strict=True))
        return Tail(decode_weight(weights, self._weights), float(numbers[0]), scalars, quality)

    def spoilt(self, tail: Tail, silos: int) -> dict[int, str]:
        """Rounded tensors, by index, of which most silos but one lost their values to a range too wide."""
        lost = tail.quality.lost or {}
        return {k: name for k, name in enumerate(self._rounded) if 2 * lost.get(name, 0) > silos - 1}

    def with_widest(self, tail: Tail, widest: NDArray[np.bool_], silos: int) -> Tail:
        """The tail of a sum over `silos`, as the silo sees it whose values ask for the ranges of `widest`."""
        spoilt = self.spoilt(tail, silos)
        told = tuple(
            name
            for k, (name, own) in enumerate(zip(self._rounded, widest, strict=True))
            if own and k in spoilt
        )
        return replace(tail, quality=replace(tail.quality, widest=told))


def _counted(names: tuple[str, ...], flags: Words) -> dict[str, int]:
    """By tensor: how many silos raised a flag, where any did."""
    return {name: int(count) for name, count in zip(names, flags, strict=True) if count}


@functools.lru_cache(maxsize=64)
def _on_grid(share: float, limbs: Limbs) -> float:
    return decode_weight(encode_weight(share, limbs), limbs)
