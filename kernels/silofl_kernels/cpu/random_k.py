"""Supports of random-k on the CPU: see `silofl_kernels.RandomK`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from silofl_kernels.checks import dtype_name
from silofl_kernels.cpu import features, streams
from silofl_kernels.cpu.jit import Kernel, array, kernel
from silofl_kernels.cpu.rows import borrow
from silofl_kernels.cpu.streams import WORK_WORDS
from silofl_kernels.prg import Family, family
from silofl_kernels.random_k import FIRST_DRAW

if TYPE_CHECKING:
    from silofl_kernels.random_k import RandomK
    from silofl_kernels.sparse import Indices

_TILE = 2048  # draws that stay in the first-level cache


def random_k(out: Indices, support: RandomK, element: int) -> None:
    """See `silofl_kernels.RandomK.indices`."""
    kind = family(support.stream.prg)
    code = _support_kernel(dtype_name(out.dtype), kind, features.path(kind))
    stratum = (support.first + element) % support.k
    code(out, support.size, support.k, support.turn, stratum, support.stream.prepared)


@functools.cache
def _support_kernel(index: str, kind: Family, path: str) -> Kernel:
    """Kernel (out, size, k, turn, stratum, prepared): coordinates drawn of one stratum after another."""
    steps = streams.steps(kind, 64)
    fill, first = steps.fill, FIRST_DRAW

    def draw_support(out: Any, size: Any, k: Any, turn: Any, stratum: Any, prepared: Any) -> None:
        draws, work = np.empty(_TILE, np.uint64), np.empty(WORK_WORDS, np.uint64)
        length, longer, at = size // k, size % k, 0
        while at < out.size:
            part = borrow(out, at, min(out.size, at + min(k - stratum, _TILE - stratum % _TILE)))
            fill(borrow(draws, 0, part.size), first + stratum, prepared, work)
            start, rest = turn + stratum * length + stratum * longer // k, stratum * longer % k
            for i in range(part.size):
                rest += longer
                here = length + (rest >= k)
                rest -= k if rest >= k else 0
                place = start + np.int64(np.float64(draws[i] >> np.uint64(11)) * (2.0**-53) * here)
                part[i] = place - size if place >= size else place
                start += here
            at += part.size
            stratum = (stratum + part.size) % k

    integers = types.int64
    return kernel(
        draw_support, f"{index}_{steps.name}", array(index), integers, integers, integers, integers,
        array("uint64", 2, readonly=True),
    )  # fmt: skip
