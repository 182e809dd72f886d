"""The secure sum by itself, for any program that has an mpi4py communicator and an array."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from silofl.aggregation.magnitudes import measure
from silofl.aggregation.secagg import SecAggSum
from silofl.aggregation.secure_session import open_session, rules_for
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.comm.ranks import communicator_of
from silofl.config import SecureConfig
from silofl.errors import DataError
from silofl.types import Contribution, Vector

Array = TypeVar("Array")
NAME = "array"


class SecureAggregator:
    """Sums over the ranks of a communicator of which no rank sees a summand; collective to make.

    Every sum is a round of the protocol `secagg` with fresh keys (Bonawitz et al. 2017): masks from pairs and
    from each silo, exact sums in a ring of `bits` bits, slices added by their owners. Values are rounded to
    fixed point: the error of a sum over n silos is at most n/2 steps of range * n / 2^(bits - 1).

    Args:
        comm: an mpi4py communicator, or silofl's own.
        size: values of every vector; taken from the first array when None.
        bits: 8, 16 or 32 bits a value on the wire.
        value_range: largest magnitude of a value, beyond which it is clipped; agreed in every sum when None.
        config: all other keys of [secure]: threshold, generator, two silos allowed.

    Raises:
        ConfigError: fewer than three ranks (two by `allow_two`), a ring too small for so many silos.
    """

    def __init__(
        self,
        comm: Any,
        size: int | None = None,
        *,
        bits: int = 16,
        value_range: float | None = None,
        config: SecureConfig | None = None,
    ) -> None:
        self._comm: Communicator = communicator_of(comm)
        settings = (config or SecureConfig()).model_copy(update={"bits": bits, "range": value_range})
        group = ElasticGroup(self._comm, fault_tolerant=False)
        self._session = open_session(group, rules_for(self._comm, settings, self._comm.size), bytes(32))
        self._range, self._round = value_range, 0
        self._sum = None if size is None else self._make(size, np.dtype(np.float32))

    def sum(self, x: Array) -> Array:
        """The sum over ranks of `x`, of its type and shape; collective.

        Args:
            x: float32 or float64 NumPy array or CPU torch tensor, of one shape on every rank. Not changed.

        Raises:
            DataError: a rank's values are not finite. On every rank.
            TypeError: neither float32 nor float64.
        """
        values = _as_vector(x)
        if self._sum is not None and self._sum.spec.vector(NAME).size != values.size:
            self._sum.close()
            self._sum = None
        if self._sum is None:
            self._sum = self._make(values.size, values.dtype)
        self._round += 1
        contribution = Contribution({NAME: values})
        opened = self._sum.open(
            contribution, float(self._comm.size), self._round, measure(contribution, self._sum.spec)
        )
        out = np.empty_like(values)
        opened.gather(self._comm.size, NAME, out)
        result: Array = _like(x, out)
        return result

    def close(self) -> None:
        """Release buffers and communicator; collective."""
        if self._sum is not None:
            self._sum.close()
            self._sum = None
        self._comm.free()

    def __enter__(self) -> SecureAggregator:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _make(self, size: int, dtype: np.dtype[Any]) -> SecAggSum:
        vectors = (VectorSpec(NAME, size, weighting="uniform"),)
        spec = AggregationSpec(vectors, dtype, 1, 0, bytes(32), self._comm.size)
        return SecAggSum(self._session, spec, value_range=self._range)


def secure_sum(x: Array, *, comm: Any, bits: int = 16, value_range: float | None = None) -> Array:
    """The sum of `x` over the ranks of `comm`, no rank seeing another's; collective.

    One round by a `SecureAggregator` of its own; a program that adds up often keeps one.
    """
    with SecureAggregator(comm, bits=bits, value_range=value_range) as aggregator:
        return aggregator.sum(x)


def _as_vector(x: Any) -> Vector:
    array = x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"a secure sum takes float32 or float64, not {array.dtype}")
    if array.size == 0:
        raise DataError("a secure sum needs at least one value")
    return np.ascontiguousarray(array).reshape(-1)


def _like(x: Any, values: Vector) -> Any:
    """The values as what `x` is: an array, or a tensor on its device."""
    if not hasattr(x, "detach"):
        return values.reshape(np.shape(x))
    tensor = x.new_empty(x.shape, device="cpu")
    tensor.numpy()[...] = values.reshape(tuple(x.shape))
    return tensor.to(x.device)
