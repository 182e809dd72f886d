"""Which exchange of rows ranks have: through memory, through groups, between hosts, or by messages."""

from __future__ import annotations

from typing import Any

import numpy as np

from silofl.aggregation.exchanges import (
    BUFFERS,
    Exchange,
    HostExchange,
    HostPlaces,
    MessageExchange,
    SoleExchange,
    WindowExchange,
)
from silofl.aggregation.tree_exchange import TreeExchange
from silofl.comm.by_host import Hosts
from silofl.comm.group_tree import GroupTree
from silofl.comm.protocol import Communicator


def open_exchange(
    comm: Communicator,
    width: int,
    length: int,
    dtype: np.dtype[Any],
    *,
    adds: bool = False,
    sole: int | None = None,
) -> Exchange:
    """The fastest exchange that these ranks have; collective.

    `width` values a row; `length` values of this rank's result, which may differ from rank to rank. `adds`:
    of rows only the sum matters, of integers modulo their size. `sole`: the only rank that rows are for.
    """
    if sole is not None:
        return SoleExchange(comm, sole, width, length, dtype)
    hosts, tree = comm.hosts() if adds and dtype.kind == "u" else None, comm.tree
    if tree is not None and not (hosts is not None and _are_hosts(tree, hosts)):
        if adds:
            return TreeExchange(comm, tree, width, length, dtype)
        return MessageExchange(comm, width, length, dtype)
    rows = BUFFERS * comm.size * width
    shared = comm.shared_buffer((rows + length + BUFFERS) * dtype.itemsize)
    if shared is not None:
        return WindowExchange(comm, shared, width, dtype)
    if hosts is not None:
        places = HostPlaces(comm.size, width, hosts)
        shared = hosts.own.shared_buffer(places.words(hosts.rank, length) * dtype.itemsize)
        everywhere = comm.allreduce(np.array([shared is not None], np.int32), "min")
        if shared is not None and everywhere[0]:
            return HostExchange(comm, places, shared, dtype)
    return MessageExchange(comm, width, length, dtype)


def _are_hosts(tree: GroupTree, hosts: Hosts) -> bool:
    """Whether groups are the hosts' ranks, which have memory in common, and have no groups of their own."""
    return tree.routed and len(tree.levels) == 2 and sorted(tree.widest) == sorted(hosts.groups)
