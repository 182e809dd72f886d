"""Buckets of silos whose contributions are added up apart: how many silos are in each, and which."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise

from silofl.crypto.kdf import digest, pack_fields, pack_silos

Buckets = tuple[tuple[int, ...], ...]
"""Silo numbers, ascending in each, no silo in two; buckets in the order of their first silos."""
FEWEST_IN_BUCKET = 3
"""A sum over two shows each the other's contribution."""


@dataclass
class DrawnBuckets:
    """Which buckets rounds are summed in.

    Attributes:
        run: the run's id; what silos bring to a draw depends on it.
        earlier: by round, those that it was opened in before: another set of sums over the same contributions
            would show single ones.
        newest: those whose sums are opened next, or were last.
    """

    run: str = ""
    earlier: dict[int, Buckets] = field(default_factory=dict)
    newest: Buckets = ()


@dataclass(frozen=True)
class Bucketing:
    """How silos are drawn into buckets.

    Attributes:
        size: of the smallest bucket when all are there, at least `FEWEST_IN_BUCKET`.
        fewest: how many buckets a round needs.
        drawn: which buckets there were.
    """

    size: int
    fewest: int = 1
    drawn: DrawnBuckets = field(default_factory=DrawnBuckets, compare=False)

    def count(self, silos: int) -> int:
        """How many buckets so many silos are in; 0 where they are too few for one."""
        return silos // self.size

    def dealt(self, seed: bytes, silos: Collection[int]) -> Buckets:
        """Buckets of `silos` by a seed: in the order of a hash, cut into parts that differ by one at most."""
        order = sorted(silos, key=lambda silo: digest("place in a bucket", seed, pack_silos((silo,))))
        count = self.count(len(order))
        cuts = [len(order) * k // count for k in range(count + 1)] if count else []
        parts = (order[first:last] for first, last in pairwise(cuts))
        return tuple(sorted(tuple(sorted(part)) for part in parts))


def buckets_digest(buckets: Buckets) -> bytes:
    """32 bytes of which silos are in which bucket."""
    return digest("buckets", pack_fields(*(pack_silos(bucket) for bucket in buckets)))
