"""Random-k: a support of k of d coordinates that all who share a stream compute, with no message.

The d coordinates, turned by a random distance, are cut into k strata of floor(d/k) or ceil(d/k) neighbours,
and one of each is drawn (stratified sampling with one unit a stratum). So the support has exactly k
coordinates, all different, and each of the d is in it with probability k/d, to a relative 2^-53 d/k: the turn
makes coordinates alike where k does not divide d. Pairs are not independent: no two come of one stratum. The
estimate that is d/k times a value on the support and 0 elsewhere is unbiased, and its error has the mean
square (d/k - 1) |x|^2 of uniform random-k (Stich et al. 2018, "Sparsified SGD with Memory").

A stream is used for one support: make one for each round. Bytes 0 to 7 are the distance, 8 j + 64 and the
seven after it decide stratum j.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from silofl_kernels.backend import Backend, backend_of
from silofl_kernels.checks import Floats, check_floats, check_vector
from silofl_kernels.prg import check_span
from silofl_kernels.sparse import Indices, check_indices
from silofl_kernels.streams import Stream, keystream

FIRST_DRAW = 8
"""Number of the 64-bit word of a stream that decides stratum 0."""
_CHUNK = 1 << 16  # coordinates computed at a time: they stay in the cache until they are used


@dataclass(frozen=True)
class RandomK:
    """The support that `stream` decides; its elements are numbered 0 to k - 1, ascending.

    Args:
        stream: public or secret; all who have it have the support.
        size: coordinates of the whole vector, d, up to 2^48.
        k: coordinates of the support, up to d and below 2^31.

    Raises:
        ValueError: an argument is not as described, or the stream ends before.
    """

    stream: Stream
    size: int
    k: int
    turn: int = field(init=False, repr=False)
    """Coordinate of the first stratum's first."""
    first: int = field(init=False, repr=False)
    """Stratum of element 0."""

    def __post_init__(self) -> None:
        if not (0 <= self.k <= self.size <= 1 << 48 and self.k < 1 << 31):
            raise ValueError(f"a support of {self.k} of {self.size} coordinates")
        check_span(self.stream.prg, 0, 8 * (FIRST_DRAW + self.k))
        object.__setattr__(self, "turn", self._word(0) * self.size >> 64)
        object.__setattr__(self, "first", 0)
        if self.k and self.turn:  # the stratum that coordinate 0 is in may have its element at the other end
            last = self._stratum(self.size - self.turn)
            object.__setattr__(self, "first", (last + (self._draw(last) < self.size - self.turn)) % self.k)

    @property
    def factor(self) -> float:
        """d/k, which makes the estimate unbiased; 0 for an empty support."""
        return self.size / self.k if self.k else 0.0

    def elements(self, start: int, stop: int) -> tuple[int, int]:
        """Numbers of the elements within coordinates `start` to `stop`: from the first up to the second.

        Raises:
            ValueError: coordinates that the vector does not have.
        """
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"coordinates {start} to {stop} of a vector of {self.size}")
        return self._below(start), self._below(stop)

    def indices(self, out: Indices, *, element: int = 0) -> None:
        """Write the coordinates of elements `element`, `element` + 1, ... over `out`.

        Args:
            out: uint32 or uint64 (m,), contiguous and writable.
            element: number of the first.

        Raises:
            ValueError, TypeError: an argument is not as described; nothing was written.
        """
        backend = backend_of(out)
        check_indices(out)
        check_vector("out", out, writable=True)
        if element < 0 or element + out.size > self.k:
            raise ValueError(f"elements {element} to {element + out.size} of a support of {self.k}")
        if self.size > 1 << 8 * out.dtype.itemsize:
            raise ValueError(f"coordinates of {self.size} values do not fit {out.dtype}")
        if out.size:
            backend.random_k(out, self, element)

    def gather(self, x: Floats, out: Floats, *, first: int = 0) -> None:
        """Write the values of x on the support over `out`, in the order of the elements.

        Args:
            x: float32 or float64 (n,), contiguous: coordinates `first` to `first` + n. Not changed.
            out: of the dtype of x, contiguous and writable; as many as `elements(first, first + n)`.
            first: coordinate of x[0] in the whole vector.

        Raises:
            ValueError, TypeError: an argument is not as described; nothing was written.
        """
        backend = backend_of(x, out)
        check_floats("out", out, writable=True)
        for here, indices in self._chunks(backend, x, out, first):
            backend.gather(x, indices, out[here])

    def scatter_add(self, target: Floats, values: Floats, *, first: int = 0, weight: float = 1.0) -> None:
        """target += weight * values on the support, each sum formed in float64 and rounded once.

        Args:
            target: float32 or float64 (n,), contiguous and writable: coordinates `first` to `first` + n.
            values: as `gather` writes them. Not changed.
            first: coordinate of target[0] in the whole vector.
            weight: factor of the values: `factor` makes the sum unbiased.

        Raises:
            ValueError, TypeError: an argument is not as described; nothing was written.
        """
        backend = backend_of(target, values)
        check_floats("target", target, writable=True)
        for here, indices in self._chunks(backend, target, values, first):
            backend.scatter_add(target, indices, values[here], weight)

    def _chunks(
        self, backend: Backend, x: Floats, values: Floats, first: int
    ) -> Iterator[tuple[slice, Indices]]:
        """Parts of `values`, and where these are in x."""
        check_floats("x", x)
        check_vector("values", values)
        if values.dtype != x.dtype:
            raise TypeError(f"values are {values.dtype}, the vector is {x.dtype}")
        start, stop = self.elements(first, first + x.size)
        if values.size != stop - start:
            raise ValueError(f"{values.size} values for {stop - start} elements of the support")
        scratch: Indices = np.empty(
            min(_CHUNK, values.size), np.uint32 if self.size <= 1 << 32 else np.uint64
        )
        for at in range(0, values.size, _CHUNK):
            indices = scratch[: values.size - at]
            backend.random_k(indices, self, start + at)
            if first:
                indices -= indices.dtype.type(first)
            yield slice(at, at + indices.size), indices

    def _below(self, coordinate: int) -> int:
        """How many elements lie below a coordinate."""
        if coordinate in (0, self.size) or not self.k:
            return self.k if coordinate else 0
        position = (coordinate - self.turn) % self.size
        stratum = self._stratum(position)
        element = (stratum - self.first) % self.k
        if self.turn and stratum == self._stratum(self.size - self.turn):  # in two pieces, at both ends
            element = 0 if position >= self.size - self.turn else self.k - 1
        return element + ((self._draw(stratum) + self.turn) % self.size < coordinate)

    def _stratum(self, position: int) -> int:
        return ((position + 1) * self.k - 1) // self.size

    def _draw(self, stratum: int) -> int:
        """The turned coordinate that is drawn of a stratum."""
        start, stop = (number * self.size // self.k for number in (stratum, stratum + 1))
        return start + int((self._word(FIRST_DRAW + stratum) >> 11) * 2.0**-53 * (stop - start))

    def _word(self, number: int) -> int:
        words = np.zeros(8, np.uint8)
        keystream(self.stream, words, position=8 * number)
        return int.from_bytes(words.tobytes(), "little")
