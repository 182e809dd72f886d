"""The sum of a round that begins some local steps before its last one, and goes on while they are taken.

Of `Streaming.delay`: what a silo contributes is known by then. The steps of the group that the sum is made of
are taken by a thread beside the main one, which meanwhile trains and calls nothing of the communicator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, final

from silofl.aggregation.magnitudes import Magnitudes
from silofl.background import Background
from silofl.comm.collective_errors import raise_if_any
from silofl.comm.elastic_group import ElasticGroup
from silofl.federation.federation import Federation
from silofl.launcher import watchdog
from silofl.types import Contribution

Sum = Callable[[Contribution, Magnitudes], None]


@final
class SumAhead:
    """One rank's part of it. Every rank makes one, calls `begin` unless it fails before, and `finish`.

    Args:
        group: the ranks.
        reduce: has the contributions of all silos added up; collective.
    """

    def __init__(self, group: ElasticGroup, reduce: Sum) -> None:
        self._group, self._reduce = group, reduce
        self._work: Background[None] = Background()

    @classmethod
    def of(cls, federation: Federation, reduce: Sum) -> Self | None:
        """That of a round; None where the sum has to wait for the last local step.

        As it does with buffers, which every step changes, and whose means are of what the last one leaves,
        and with `participation`, for a round whose drawn silos have failed is taken again from its training.
        """
        streaming, values = federation.context.strategy.streaming(), federation.values
        buffers = len(values) - len(federation.topology.shared["model"])
        if (
            streaming is None
            or not streaming.delay
            or buffers
            or federation.context.participation is not None
        ):
            return None
        return cls(federation.group, reduce)

    def begin(self, contribution: Contribution, magnitudes: Magnitudes) -> None:
        """Begin to add up, once all ranks have said that they do; does not wait."""
        self._work.start(lambda: self._sum(contribution, magnitudes))

    def finish(self) -> None:
        """Wait for the sum where it has begun; collective. Raises on all ranks what any raised in it.

        A rank that has failed before tells the others next, whose sums wait for it as their first step.
        """
        if self._work.busy:
            with watchdog.waiting():
                self._work.result()

    def _sum(self, contribution: Contribution, magnitudes: Magnitudes) -> None:
        self._group.step(lambda: raise_if_any(self._group.comm, None))
        self._reduce(contribution, magnitudes)
