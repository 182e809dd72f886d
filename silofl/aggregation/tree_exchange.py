"""Sums of rows through groups of ranks: each group passes on one row for every rank outside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from silofl.aggregation.exchanges import MessageExchange, Row
from silofl.comm.group_tree import GroupTree
from silofl.comm.protocol import Communicator
from silofl_kernels import reduce_rows, reduce_rows_float


class TreeExchange(MessageExchange):
    """Rows of which only the sum matters, added up inside groups before they pass between them.

    In the innermost groups first; of what is for a rank outside one rank of the group adds up the others' and
    passes on the sum. Integers wrap, so that the sum is that of any other order, bit for bit; floats are
    rounded to their type where they pass.
    """

    def __init__(
        self, comm: Communicator, tree: GroupTree, width: int, length: int, dtype: np.dtype[Any]
    ) -> None:
        super().__init__(comm, width, length, dtype)
        self._tree, self._rank, self._row = tree, comm.rank, (width, dtype)

    def alltoall(self) -> list[Row]:
        """See `Exchange`: one row, the sum."""
        comm, far, (width, dtype) = self._comm, self._tree.far(self._rank), self._row
        rows = list(self._send)
        for level in reversed(self._tree.levels):
            to, of = dict[int, list[int]](), dict[int, list[int]]()
            for number, source, target in level:
                if source == self._rank:
                    to.setdefault(target, []).append(number)
                if target == self._rank:
                    of.setdefault(source, []).append(number)
            sends = [(np.concatenate([rows[k] for k in numbers]), target) for target, numbers in to.items()]
            receives = [(np.empty((len(numbers), width), dtype), source) for source, numbers in of.items()]
            comm.count_sent(
                sum(array.nbytes for array, _ in sends),
                far=sum(array.nbytes for array, target in sends if target in far),
            )
            comm.exchange(sends, receives).wait()
            arrived = dict[int, list[Row]]()
            for array, source in receives:
                for number, row in zip(of[source], array, strict=True):
                    arrived.setdefault(number, []).append(row)
            for number, others in arrived.items():
                rows[number] = _added([rows[number], *others])
        return [rows[self._rank]]


def _added(rows: list[Row]) -> Row:
    total = np.empty_like(rows[0])
    if total.dtype.kind == "u":
        reduce_rows(rows, total)
    else:
        reduce_rows_float(rows, total)
    return total
