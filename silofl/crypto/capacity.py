"""Fixed point in a ring: what fits is known, and what does not is refused, before a round starts."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.errors import ConfigError
from silofl.types import RingBits

_DTYPES: dict[int, type[np.unsignedinteger[Any]]] = {8: np.uint8, 16: np.uint16, 32: np.uint32}
_WIDTHS: dict[str, tuple[int, ...]] = {"secure.bits": (8, 16, 32), "compress.bits": (1, 2, 4, 8, 16, 32)}
"""By the key that says how many bits a value has: what it may be."""
_FLOAT32_TINY, _FLOAT32_MAX = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_FLOAT32_SLACK = 2.0**-21
"""Relative: scale and weight rounded to float32, their product and the product with x, four times 2^-24."""
COUNT_BITS = 53
"""A sum of sample counts stays an exact float64."""
PRECISION_BITS = 40
"""What is left of the sum of the p_i after n roundings."""


def check_capacity(
    bits: int,
    value_range: float,
    silos: int,
    *,
    stochastic: bool = False,
    total_weight: float = 1.0,
    key: str = "secure.bits",
) -> float:
    """The largest scale s for which no sum over `silos` of round(p_i x_i s) can wrap in the B-bit ring.

    For |x_i| <= value_range, p_i >= 0 and sum p_i <= total_weight (1 for a weighted mean, `silos` for a plain
    sum); float32 arithmetic allowed for. A rounding moves a value by at most 1/2 (to nearest) or 1
    (stochastic), so the sum stays within s * value_range * total_weight + slack <= 2^(B-1) - 1.
    `bits` may be those of a field of a ring's words, too, which `key` of the configuration says.
    ConfigError, with the numbers and what would fit, when less than one level is left.
    """
    _check_numbers(bits, value_range, silos, total_weight, key)
    levels = _levels(bits, silos, stochastic)
    if levels < 1:
        raise ConfigError(
            f"{silos} silos do not fit {_a_ring(bits, key)}: rounding alone may move their sum by "
            f"{_slack(silos, stochastic):g} of {(1 << bits - 1) - 1} levels; "
            + _advice(bits, [b for b in _WIDTHS[key] if _levels(b, silos, stochastic) >= 1], key)
        )
    scale = levels * (1 - _FLOAT32_SLACK) / value_range / total_weight
    if not _FLOAT32_TINY < scale < _FLOAT32_MAX:
        raise ConfigError(f"a value range of {value_range:g} leaves no float32 scale in {_a_ring(bits, key)}")
    return scale


def word_limit(weight: float, value_range: float, scale: float, *, stochastic: bool = False) -> int:
    """The largest magnitude that one silo's words round(p_i x_i s) have for |x_i| <= value_range.

    Limiting words to it keeps the sum within what `check_capacity` counted on, whatever the arithmetic.
    """
    return math.floor(weight * value_range * scale + (1 if stochastic else 0.5))


def _check_numbers(
    bits: int, value_range: float, silos: int, total_weight: float, key: str = "secure.bits"
) -> None:
    if bits not in _WIDTHS[key]:
        what = "a ring has 8, 16 or 32 bits" if key == "secure.bits" else f"{key} is one of {_WIDTHS[key]}"
        raise ConfigError(f"{what}, not {bits}")
    if silos < 1:
        raise ConfigError(f"a sum needs at least one silo, not {silos}")
    for name, number in (("value range", value_range), ("total weight", total_weight)):
        if not (math.isfinite(number) and number > 0):
            raise ConfigError(f"the {name} must be finite and positive, not {number}")


def _slack(silos: int, stochastic: bool) -> float:
    return float(silos) if stochastic else silos / 2


def _levels(bits: int, silos: int, stochastic: bool) -> float:
    return (1 << bits - 1) - 1 - _slack(silos, stochastic)


def _a_ring(bits: int, key: str = "secure.bits") -> str:
    if key != "secure.bits":
        return f"{key} = {bits}"
    return "an 8-bit ring" if bits == 8 else f"a {bits}-bit ring"


def _advice(bits: int, fitting: list[int], key: str) -> str:
    wider = [b for b in fitting if b > bits]
    return f"use {key} = {wider[0]}" if wider else "use fewer silos"


@dataclass(frozen=True)
class Limbs:
    """A whole number of `width` bits as several B-bit words, so small that their sums over n never wrap.

    `encode` one silo's number, add the words of all silos in the ring (masked), `decode` the exact sum.
    """

    bits: RingBits
    silos: int
    width: int

    def __post_init__(self) -> None:
        _check_numbers(self.bits, 1.0, self.silos, 1.0)
        if self.silos > 2**self.bits - 1:
            raise ConfigError(
                f"{self.silos} silos do not fit {_a_ring(self.bits)}: a one-bit limb would wrap"
            )

    @functools.cached_property
    def limb_bits(self) -> int:
        """The largest l with silos * (2^l - 1) <= 2^B - 1."""
        return (((1 << self.bits) - 1) // self.silos + 1).bit_length() - 1

    @functools.cached_property
    def words(self) -> int:
        """How many ring words one number takes."""
        return -(-self.width // self.limb_bits)

    def encode(self, number: int) -> NDArray[np.unsignedinteger[Any]]:
        """uintB (words,): the limbs of 0 <= number < 2^width, lowest first; ConfigError outside."""
        if not 0 <= number < 1 << self.width:
            raise ConfigError(f"the number does not fit {self.width} bits, with {self.silos} silos")
        ones = (1 << self.limb_bits) - 1
        limbs = [number >> (self.limb_bits * place) & ones for place in range(self.words)]
        return np.array(limbs, dtype=_DTYPES[self.bits])

    def decode(self, sums: NDArray[np.unsignedinteger[Any]]) -> int:
        """The sum of the numbers from the ring sums (words,) of their limbs: exact."""
        if sums.shape != (self.words,) or sums.dtype != _DTYPES[self.bits]:
            raise ValueError(f"limb sums are {self.words} words of {self.bits} bits")
        return sum(int(limb) << (self.limb_bits * place) for place, limb in enumerate(sums))


def count_limbs(bits: RingBits, silos: int) -> Limbs:
    """Limbs for sample counts up to 2^53 / n - 1, whose sum over n silos is an exact float64."""
    return Limbs(bits, silos, COUNT_BITS - (silos - 1).bit_length())


def weight_limbs(bits: RingBits, silos: int) -> Limbs:
    """Limbs for p_i = w_i / W, precise enough that the sum over any survivors is right to 2^-40."""
    return Limbs(bits, silos, _weight_bits(silos) + 1)


def encode_weight(weight: float, limbs: Limbs) -> NDArray[np.unsignedinteger[Any]]:
    """uintB (words,): p_i in [0, 1] as fixed point; ConfigError outside."""
    if not 0 <= weight <= 1:
        raise ConfigError("a silo's weight p_i must be between 0 and 1")
    return limbs.encode(round(weight * (1 << _weight_bits(limbs.silos))))


def decode_weight(sums: NDArray[np.unsignedinteger[Any]], limbs: Limbs) -> float:
    """The sum of the p_i, within 2^-40, from the ring sums of their limbs."""
    return limbs.decode(sums) / (1 << _weight_bits(limbs.silos))


def _weight_bits(silos: int) -> int:
    return PRECISION_BITS + (silos - 1).bit_length()
