"""What sums around another one have of it as it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Aggregator
from silofl.types import Vector


class AroundSum:
    """Part of an `Aggregator` around an `inner` one: whatever it does to vectors does not matter here."""

    def __init__(self, inner: Aggregator) -> None:
        self._inner = inner

    @property
    def participants(self) -> tuple[int, ...]:
        """See `Aggregator`."""
        return self._inner.participants

    @property
    def summed_samples(self) -> float:
        """See `Aggregator`."""
        return self._inner.summed_samples

    def prepare(self) -> None:
        """See `Aggregator`."""
        self._inner.prepare()

    def sum_scalars(
        self, values: NDArray[np.float64], made_from: Sequence[Vector] = ()
    ) -> NDArray[np.float64]:
        """See `Aggregator`; as they are."""
        return self._inner.sum_scalars(values, made_from)

    def close(self) -> None:
        """See `Aggregator`."""
        self._inner.close()
