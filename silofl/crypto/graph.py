"""Neighbours in a round: the complete graph, or the random k-regular graph of Bell et al. (2020).

Neighbours share pair masks and hold one another's Shamir shares. The graph is a Harary graph over a random
order of the silos (Bell et al., section 3): everybody is joined to the k/2 silos on either side of a ring
whose order is drawn from a hash of all adverts, so that no silo chooses its neighbours.

k and t are the smallest for which, with at most a fraction `colluding` of the silos colluding and at most a
fraction `dropping` lost, all drawn without regard to the order:

- some silo has t or more colluding neighbours (they could open both its secrets), or the honest survivors
  are not connected (their sum would fall into parts), with probability at most 2^-security_bits;
- some silo has fewer than t surviving neighbours (its secret cannot be opened), with probability at most
  2^-correctness_bits.

The first and last are tails of the hypergeometric distribution, exact, times n. A Harary graph falls apart
only where k/2 silos in a row are removed: n times the probability that k/2 given silos are.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb

from silofl.errors import ConfigError

COMPLETE_UP_TO = 16


@dataclass(frozen=True, slots=True)
class Bounds:
    """The fractions of silos that may collude and drop out, and the probabilities of failure put up with."""

    colluding: float = 1 / 3
    dropping: float = 0.1
    security_bits: int = 40
    correctness_bits: int = 30
    complete_up_to: int = COMPLETE_UP_TO

    def __post_init__(self) -> None:
        if self.colluding < 0 or self.dropping < 0 or self.colluding + self.dropping >= 1:
            raise ConfigError(
                "the colluding and the dropping fraction must be at least 0 and add up to less than 1"
            )


@dataclass(frozen=True, slots=True)
class Degree:
    """Every silo has `neighbours` neighbours, and `threshold` shares open a secret."""

    neighbours: int
    threshold: int


@lru_cache(maxsize=64)
def choose_degree(silos: int, bounds: Bounds) -> Degree | None:
    """The smallest degree that keeps the bounds; None, the complete graph, where none worth it does."""
    if silos <= bounds.complete_up_to:
        return None
    for neighbours in range(2, most_neighbours(silos) + 1, 2):
        if split_probability(silos, neighbours, bounds) > Fraction(1, 2 ** (bounds.security_bits + 1)):
            continue
        threshold = _smallest_threshold(silos, neighbours, bounds)
        lost = loss_probability(silos, neighbours, threshold, bounds)
        if lost <= Fraction(1, 2**bounds.correctness_bits):
            return Degree(neighbours, threshold)
    return None


def most_neighbours(silos: int) -> int:
    """The largest degree worth it: three quarters of the complete graph's, which bears more collusion."""
    return 3 * (silos - 1) // 4


def split_probability(silos: int, neighbours: int, bounds: Bounds) -> Fraction:
    """At most how likely it is that the honest survivors fall into parts."""
    gone = min(silos, _ceil(silos * bounds.colluding) + _ceil(silos * bounds.dropping))
    run = neighbours // 2
    return silos * _ratio(comb(gone, run), comb(silos, run))


def exposure_probability(silos: int, neighbours: int, threshold: int, bounds: Bounds) -> Fraction:
    """At most how likely it is that some silo has `threshold` or more colluding neighbours."""
    colluding = min(silos - 1, _ceil(silos * bounds.colluding))
    return silos * _tail(silos - 1, colluding, neighbours, threshold)


def loss_probability(silos: int, neighbours: int, threshold: int, bounds: Bounds) -> Fraction:
    """At most how likely it is that some silo has fewer than `threshold` surviving neighbours."""
    dropping = min(silos - 1, _ceil(silos * bounds.dropping))
    return silos * _tail(silos - 1, dropping, neighbours, neighbours - threshold + 1)


def neighbourhoods(
    silos: Collection[int], degree: Degree | None, randomness: bytes
) -> dict[int, frozenset[int]]:
    """Each silo's neighbours, the same on every rank: all others for no degree, else the Harary graph."""
    if degree is None or degree.neighbours >= len(silos) - 1:
        return {silo: frozenset(silos) - {silo} for silo in silos}
    ring = sorted(silos, key=lambda silo: hashlib.sha256(randomness + struct.pack(">I", silo)).digest())
    half, size = degree.neighbours // 2, len(ring)
    return {
        silo: frozenset(ring[(place + step) % size] for step in range(-half, half + 1) if step)
        for place, silo in enumerate(ring)
    }


def _smallest_threshold(silos: int, neighbours: int, bounds: Bounds) -> int:
    allowed = Fraction(1, 2 ** (bounds.security_bits + 1))
    low, high = 1, neighbours + 1  # the probability falls with the threshold and is 0 at the upper end
    while low < high:
        middle = (low + high) // 2
        if exposure_probability(silos, neighbours, middle, bounds) <= allowed:
            high = middle
        else:
            low = middle + 1
    return low


def _tail(population: int, marked: int, drawn: int, least: int) -> Fraction:
    """P[X >= least], X the marked among `drawn` without replacement."""
    ways = sum(
        comb(marked, hit) * comb(population - marked, drawn - hit) for hit in range(max(0, least), drawn + 1)
    )
    return _ratio(ways, comb(population, drawn))


def _ratio(part: int, whole: int) -> Fraction:
    return Fraction(part, whole)


def _ceil(number: float) -> int:
    return int(-(-number // 1))


def colluding_openers(silos: int) -> int | None:
    """How many colluding silos may open a secret in the sparse graph; None where the graph is complete."""
    bounds = Bounds()
    return None if choose_degree(silos, bounds) is None else int(silos * bounds.colluding) + 1
