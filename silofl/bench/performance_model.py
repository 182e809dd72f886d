"""A performance model: what secure sums and rounds take on networks that are not there, by measured rates.

A rank encodes its vector and adds a mask for each neighbour and its own, adds up what all bring to its
slice, takes the survivors' own masks off that, and decodes the whole sum: so many passes over so many values.
Beside them are the protocol's messages, whose cost grows with the number of silos alone, and steps in which
all ranks wait for each other. Between hosts a host's words are added up before they cross, and the sum
crosses to each host once; what crosses does so while the next piece is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from silofl.aggregation.reduce_scatter import CHUNK_BYTES
from silofl.crypto.graph import Bounds, choose_degree
from silofl.types import RingBits

STEPS = 8
"""In which all ranks exchange something small, in one sum: adverts, shares, ranges, words, tail, vote,
reveal, sum."""
FENCES_A_CHUNK = 2
ROUND_PASSES = 13.0
"""Passes over the vector of a round beside its sum, in copies of it: the difference that training made, two
digests, the server's step, its recomputation, and the new model on every rank. As at n = 4 and 8."""


@dataclass(frozen=True)
class Rates:
    """One machine's, measured: seconds on one of its cores, while the others work as well.

    Attributes:
        cores: that ranks of one host share.
        encode: of a value, without a mask.
        mask: of one mask on a value.
        fold: of one value of one row.
        decode: of a value.
        copy: of a float32 value.
        scan: of a value, for the largest.
        protocol: of all messages of one silo, as coefficients of 1, n and n^2 for n silos.
        calls: of a sum of nothing, beside the protocol's messages.
        step: of a step in which all `ranks` of a host wait for each other.
    """

    cores: int
    encode: float
    mask: float
    fold: float
    decode: float
    copy: float
    scan: float
    protocol: tuple[float, float, float]
    calls: float
    step: float
    ranks: int


@dataclass(frozen=True)
class Network:
    """Between hosts: seconds that a message takes, bytes a second in each direction of a host's link."""

    name: str
    latency: float
    bandwidth: float


NETWORKS = (
    Network("InfiniBand HDR, 200 Gbit/s", 2e-6, 25e9),
    Network("Ethernet, 10 Gbit/s", 3e-5, 1.25e9),
    Network("Ethernet, 1 Gbit/s", 1e-4, 1.25e8),
    Network("between sites, 1 Gbit/s, 10 ms", 1e-2, 1.25e8),
    Network("between sites, 100 Mbit/s, 10 ms", 1e-2, 1.25e7),
)


@dataclass(frozen=True)
class Layout:
    """Silos, the values of their vector, how many share a host; the `network` between several hosts."""

    silos: int
    values: int
    a_host: int
    network: Network | None = None
    bits: RingBits = 16

    @property
    def hosts(self) -> int:
        """How many there are."""
        return -(-self.silos // self.a_host)

    @property
    def neighbours(self) -> int:
        """How many others a silo has masks in common with: all, but in the sparse graph of many silos."""
        degree = choose_degree(self.silos, Bounds())
        return self.silos - 1 if degree is None else degree.neighbours

    def __post_init__(self) -> None:
        if min(self.silos, self.values, self.a_host) < 1:
            raise ValueError("silos, values and silos of a host are 1 or more")


@dataclass(frozen=True)
class Seconds:
    """Of one sum or round, by what they go to."""

    masking: float
    """Encoding, masks, adding up."""
    opening: float
    """Masks off, decoding."""
    protocol: float
    """Keys, shares, signatures."""
    waiting: float
    """Steps in which all wait for each other."""
    wire: float
    """What of the wire's time is not hidden behind the rest."""
    rest: float = 0.0
    """Of a round."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.masking + self.opening + self.protocol + self.waiting + self.wire + self.rest


def secure_sum(rates: Rates, layout: Layout) -> Seconds:
    """One secure sum, keys included."""
    shared = max(1.0, layout.a_host / rates.cores)
    values, silos = layout.values, layout.silos
    masking = (
        shared * values * (rates.scan + rates.encode + (layout.neighbours + 1) * rates.mask + rates.fold)
    )
    crossing = rates.copy * layout.bits / 32  # words of the sum, from where they were added up
    opening = shared * values * (rates.mask + crossing + rates.decode)
    a, b, c = rates.protocol
    near = layout.neighbours + 1
    protocol = shared * (rates.calls + a + b * silos + c * near * near)
    chunks = math.ceil(values * layout.bits / 8 / CHUNK_BYTES)
    steps = STEPS + FENCES_A_CHUNK * (chunks - 1)
    here = max(min(layout.a_host, silos), 1)
    waiting = steps * rates.step * here / rates.ranks
    wire = 0.0
    if layout.network is not None and layout.hosts > 1:
        bytes_ = values * layout.bits / 8 * (layout.hosts - 1) / layout.hosts
        once = bytes_ / layout.network.bandwidth
        wire = max(once - masking, 0.0) + max(once - opening, 0.0)
        waiting += STEPS * layout.network.latency * math.ceil(math.log2(layout.hosts))
    return Seconds(masking, opening, protocol, waiting, wire)


def secure_round(rates: Rates, layout: Layout) -> Seconds:
    """One round without its training: the sum, the server's step, and the new model on every rank."""
    found = secure_sum(rates, layout)
    rest = max(1.0, layout.a_host / rates.cores) * ROUND_PASSES * rates.copy * layout.values
    if layout.network is not None and layout.hosts > 1:
        rest += 4 * layout.values * (layout.hosts - 1) / layout.hosts / layout.network.bandwidth
    return Seconds(found.masking, found.opening, found.protocol, found.waiting, found.wire, rest)


def through(points: Sequence[tuple[float, float]], powers: Sequence[int]) -> list[float]:
    """Coefficients of x ** powers, none below 0, that fit the points (x, y) best by relative error."""
    import numpy as np
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    x, y = np.array(points, np.float64).T
    rows = np.column_stack([x**power for power in powers]) / y[:, None]
    found: list[float] = nnls(rows, np.ones(len(y)))[0].tolist()
    return found
