"""Argument checks of collectives, made before any byte moves: shapes, dtypes, layouts and counts.

All are local and raise TypeError or ValueError, which are mistakes of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.types import ReduceOp

REDUCE_OPS = ("sum", "min", "max")


def check_alltoall(send: NDArray[Any], receive: NDArray[Any], size: int) -> None:
    """Require `send` and `receive` (size, c) of one dtype, C-contiguous, apart from each other."""
    _check_pair(send, receive)
    if send.ndim != 2 or send.shape[0] != size or receive.shape != send.shape:
        msg = (
            f"alltoall needs send and receive of one shape ({size}, c), not {send.shape} and {receive.shape}"
        )
        raise ValueError(msg)
    if np.may_share_memory(send, receive):
        raise ValueError("alltoall needs send and receive that do not overlap")


def check_allgather(
    send: NDArray[Any], receive: NDArray[Any], counts: Sequence[int], rank: int, size: int
) -> None:
    """Require `send` (counts[rank],) and `receive` (sum(counts),), with one count a rank.

    `send` may be this rank's own part of `receive`; any other overlap is refused.
    """
    if len(counts) != size:
        raise ValueError(f"allgather needs one count a rank: {size}, not {len(counts)}")
    _check_pair(send, receive)
    if min(counts, default=0) < 0:
        raise ValueError(f"allgather needs counts of at least 0, not {list(counts)}")
    if send.shape != (counts[rank],) or receive.shape != (sum(counts),):
        msg = f"allgather of counts {list(counts)} on rank {rank} cannot take {send.shape} to {receive.shape}"
        raise ValueError(msg)
    if np.may_share_memory(send, receive) and not is_same_memory(send, own_part(receive, counts, rank)):
        raise ValueError("allgather takes a send inside receive only at this rank's own place")


def check_exchange(
    sends: Sequence[tuple[NDArray[Any], int]],
    receives: Sequence[tuple[NDArray[Any], int]],
    rank: int,
    size: int,
) -> None:
    """Require C-contiguous arrays and one message at most to and from each other rank."""
    for what, messages in (("sends to", sends), ("receives from", receives)):
        partners = [partner for _, partner in messages]
        if len(set(partners)) < len(partners):
            raise ValueError(f"exchange {what} ranks {partners}: one message at most for each")
        if any(not 0 <= partner < size or partner == rank for partner in partners):
            raise ValueError(f"exchange {what} ranks {partners}: rank {rank} has other ranks of {size} only")
        if not all(array.flags.c_contiguous for array, _ in messages):
            raise ValueError("exchange needs C-contiguous arrays")


def check_neighbours(ranks: Sequence[int], rank: int, size: int) -> None:
    """Require other ranks than `rank`, ascending, each once."""
    if list(ranks) != sorted(set(ranks)) or any(not 0 <= one < size or one == rank for one in ranks):
        raise ValueError(f"rank {rank} of {size} has as neighbours other ranks, ascending, not {list(ranks)}")


def check_neighbour_rows(send: NDArray[Any], receive: NDArray[Any], sends: tuple[int, ...]) -> None:
    """Require `send` of shape `sends` and `receive` of rows as long, of one dtype, C-contiguous, apart."""
    _check_pair(send, receive)
    if send.shape != sends or receive.shape[1:] != sends[-1:]:
        raise ValueError(f"neighbours need rows of one length, not {send.shape} to {receive.shape}")
    if np.may_share_memory(send, receive):
        raise ValueError("neighbours need send and receive that do not overlap")


def check_reduce(values: NDArray[Any], op: ReduceOp) -> None:
    """Require 32- or 64-bit numbers for a sum, 8- and 16-bit integers too for min and max."""
    if op not in REDUCE_OPS:
        raise ValueError(f"allreduce knows {', '.join(REDUCE_OPS)}, not {op!r}")
    dtype = values.dtype
    if dtype.kind not in "iuf" or (dtype.kind == "f" and dtype.itemsize not in {4, 8}):
        raise TypeError(f"allreduce takes integers and 32- or 64-bit floats, not {dtype}")
    if op == "sum" and dtype.itemsize < 4:
        msg = (
            f"allreduce does not sum {dtype}: MPI libraries saturate 8- and 16-bit sums; use alltoall and add"
        )
        raise TypeError(msg)


def own_part(receive: NDArray[Any], counts: Sequence[int], rank: int) -> NDArray[Any]:
    """View a rank's part (counts[rank],) of an allgather's `receive` (sum(counts),)."""
    start = sum(counts[:rank])
    return receive[start : start + counts[rank]]


def is_same_memory(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Return whether two contiguous arrays are the very same bytes."""
    return first.nbytes == second.nbytes and (
        first.nbytes == 0 or first.__array_interface__["data"][0] == second.__array_interface__["data"][0]
    )


def _check_pair(send: NDArray[Any], receive: NDArray[Any]) -> None:
    if send.dtype != receive.dtype:
        raise TypeError(f"send has dtype {send.dtype} and receive {receive.dtype}: they must agree")
    if send.dtype.hasobject:
        raise TypeError("arrays of Python objects cannot be sent")
    if not (send.flags.c_contiguous and receive.flags.c_contiguous):
        raise ValueError("send and receive must be C-contiguous")
    if not receive.flags.writeable:
        raise ValueError("receive must be writeable")
