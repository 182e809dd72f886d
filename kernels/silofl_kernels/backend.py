"""Which code serves an array: a backend is chosen by the type of a kernel's arrays.

A public function checks and documents; the backend of its arrays does the work. To add one, write a module
with the functions of `Backend` and `register` it for its array type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from silofl_kernels.blockwise import Codes, Float32
    from silofl_kernels.checks import Floats, Rows
    from silofl_kernels.count_sketch import CountSketch
    from silofl_kernels.low_rank import Factor
    from silofl_kernels.masking import MaskSet
    from silofl_kernels.noise_table import NoiseTable
    from silofl_kernels.packing import Bytes, Packable
    from silofl_kernels.random_k import RandomK
    from silofl_kernels.ring import Words
    from silofl_kernels.segments import Segments
    from silofl_kernels.sparse import Indices
    from silofl_kernels.streams import Stream

Ends = NDArray[np.int64]


class Backend(Protocol):
    """The kernels of one kind of array, by the names of the public functions, which document them.

    Arguments are positional and checked already; quantization returns how many values were out of bounds,
    and how many of these were not finite. Host objects (`MaskSet`, `Stream`, `NoiseTable`, `Segments`) and
    the small host arrays `ends`, `steps`, `weights` and `error` come as they are.
    """

    def add_masks(self, words: Words, masks: MaskSet, offset: int, /) -> None:
        """See `silofl_kernels.add_masks`."""

    def add_noise(self, words: Words, table: NoiseTable, stream: Stream, position: int, /) -> None:
        """See `silofl_kernels.add_noise`."""

    def add_product(self, target: Floats, left: Factor, right: Factor, weight: float, /) -> None:
        """See `silofl_kernels.add_product`."""

    def correlate_noise(
        self,
        out: NDArray[np.int32],
        past: NDArray[np.int32],
        coefficients: NDArray[np.int64],
        stream: Stream,
        position: int,
        /,
    ) -> None:
        """See `silofl_kernels.correlate_noise`."""

    def decode_exact(self, sums: Words, out: NDArray[np.float64], digit_bits: int, /) -> None:
        """See `silofl_kernels.ExactFormat.decode`."""

    def dequantize(
        self, words: Words, out: Floats, ends: Ends, steps: NDArray[np.float64], first: int, /
    ) -> None:
        """See `silofl_kernels.dequantize`."""

    def dequantize_blocks(self, codes: Codes, steps: Float32, out: Float32, block: int, /) -> None:
        """See `silofl_kernels.dequantize_blocks`."""

    def dequantize_segments(
        self, codes: Codes, steps: Float32, out: Float32, ends: Ends, first: int, /
    ) -> None:
        """See `silofl_kernels.dequantize_segments`; `steps` is a small host array."""

    def draw_noise(self, out: NDArray[np.int32], table: NoiseTable, stream: Stream, position: int, /) -> None:
        """See `silofl_kernels.draw_noise`."""

    def encode_exact(self, x: Floats, out: Words, weight: float, digit_bits: int, /) -> int:
        """See `silofl_kernels.ExactFormat.encode`."""
        ...

    def gather(self, x: Floats, indices: Indices, out: Floats, /) -> None:
        """See `silofl_kernels.gather`."""

    def keystream(self, out: NDArray[np.uint8], stream: Stream, position: int, /) -> None:
        """See `silofl_kernels.keystream`."""

    def largest_index(self, indices: Indices, /) -> int:
        """The largest coordinate, -1 where there is none."""
        ...

    def max_abs(self, x: Floats, ends: Ends, out: NDArray[np.float64], /) -> None:
        """See `silofl_kernels.max_abs`; float64 (m,) over `out`."""

    def mean_around(self, rows: Rows, reference: Floats, out: Floats, count: int, /) -> None:
        """See `silofl_kernels.mean_around`."""

    def pack_fields(self, numbers: Words, out: Words, bits: int, /) -> None:
        """See `silofl_kernels.pack_fields`."""

    def pack_bits(self, codes: Packable, out: Bytes, bits: int, /) -> bool:
        """See `silofl_kernels.pack_bits`; whether all codes have `bits` bits."""
        ...

    def quantize(
        self,
        x: Floats,
        out: Words,
        segments: Segments,
        first: int,
        rounding: Stream | None,
        /,
    ) -> tuple[int, int]:
        """See `silofl_kernels.quantize`."""
        ...

    def quantize_and_mask(
        self,
        x: Floats,
        out: Words,
        segments: Segments,
        first: int,
        rounding: Stream | None,
        error: NDArray[np.float64],
        masks: MaskSet,
        offset: int,
        /,
    ) -> tuple[int, int]:
        """See `silofl_kernels.quantize_and_mask`; `masks` may be empty."""
        ...

    def quantize_blocks(
        self,
        x: Float32,
        codes: Codes,
        steps: Float32,
        bits: int,
        block: int,
        first: int,
        residual: Float32 | None,
        rounding: Stream | None,
        /,
    ) -> int:
        """See `silofl_kernels.quantize_blocks`."""
        ...

    def quantize_segments(
        self,
        x: Float32,
        codes: Codes,
        steps: Float32,
        bits: int,
        ends: Ends,
        first: int,
        residual: Float32 | None,
        rounding: Stream | None,
        /,
    ) -> int:
        """See `silofl_kernels.quantize_segments`; `steps` is a small host array."""
        ...

    def random_k(self, out: Indices, support: RandomK, element: int, /) -> None:
        """See `silofl_kernels.RandomK.indices`; `out` is not empty."""

    def reduce_rows(self, rows: Rows, out: Words, masks: MaskSet | None, offset: int, /) -> None:
        """See `silofl_kernels.reduce_rows`."""

    def reduce_rows_dequantize(
        self,
        rows: Rows,
        out: Floats,
        ends: Ends,
        steps: NDArray[np.float64],
        first: int,
        masks: MaskSet | None,
        offset: int,
        /,
    ) -> None:
        """See `silofl_kernels.reduce_rows_dequantize`."""

    def reduce_rows_float(self, rows: Rows, out: Floats, weights: NDArray[np.float64], /) -> None:
        """See `silofl_kernels.reduce_rows_float`."""

    def rotate(self, x: Floats, stream: Stream, window: int, /) -> None:
        """See `silofl_kernels.rotate`; `window` is the length of a window, a power of two."""

    def scale_into(self, x: Floats, weight: float, out: Floats, /) -> None:
        """See `silofl_kernels.scale_into`."""

    def sorted_mean(self, rows: Rows, out: Floats, first: int, last: int, /) -> None:
        """The mean of values `first` to `last` - 1 of each coordinate, in ascending order, over `out`."""

    def squared_distances(self, rows: Rows, out: NDArray[np.float64], /) -> None:
        """See `silofl_kernels.squared_distances`; over `out` (n, n), zeros."""

    def sketch(self, x: Floats, out: Floats, way: CountSketch, /) -> None:
        """See `silofl_kernels.sketch`."""

    def unpack_fields(self, words: Words, out: Words, bits: int, /) -> None:
        """See `silofl_kernels.unpack_fields`."""

    def scatter_add(self, target: Floats, indices: Indices, values: Floats, weight: float, /) -> None:
        """See `silofl_kernels.scatter_add`."""

    def top_k(self, x: Floats, indices: Indices, values: Floats, /) -> None:
        """See `silofl_kernels.top_k`."""

    def unpack_bits(self, packed: Bytes, out: Packable, bits: int, /) -> None:
        """See `silofl_kernels.unpack_bits`."""

    def unsketch(self, sums: Floats, out: Floats, way: CountSketch, /) -> None:
        """See `silofl_kernels.unsketch`."""

    def unrotate(self, x: Floats, stream: Stream, window: int, /) -> None:
        """See `silofl_kernels.unrotate`; `window` is the length of a window, a power of two."""


_backends: dict[type, Backend] = {}
_chosen: dict[type, Backend] = {}  # subclasses too, such as numpy.memmap


def register(array_type: type, backend: Backend) -> None:
    """Have `backend` serve arrays of `array_type` and of its subclasses without a backend of their own."""
    _backends[array_type] = backend
    _chosen.clear()


def backend_of(first: Any, *others: Any) -> Backend:
    """The one backend that serves all of these arrays; well under a microsecond.

    Raises:
        TypeError: an array that no backend serves, or arrays of two backends.
    """
    backend = _chosen.get(type(first)) or _choose(type(first))
    for other in others:
        if type(other) is not type(first) and (_chosen.get(type(other)) or _choose(type(other))) != backend:
            raise TypeError(
                f"arrays of one kernel lie in one place: {_name(type(first))} and {_name(type(other))} do not"
            )
    return backend


def _choose(kind: type) -> Backend:
    for base in kind.__mro__:
        if base in _backends:
            return _chosen.setdefault(kind, _backends[base])
    known = ", ".join(map(_name, _backends))
    gpu = " (no GPU backend is built in)" if hasattr(kind, "__cuda_array_interface__") else ""
    raise TypeError(f"kernels take arrays of {known}, not {_name(kind)}{gpu}")


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
