"""Rows by messages and through shared memory: the same rows, and the same number of bytes sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silofl.aggregation.exchange_choice import open_exchange
from silofl.aggregation.exchanges import Exchange, HostExchange, MessageExchange
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads

WIDTH, COUNT = 5, 4


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("kind", ["messages", "shared memory"])
def test_bytes_sent_are_those_of_the_rows_for_other_ranks(kind: str, n: int) -> None:
    def rank(comm: Communicator) -> Any:
        arguments = (comm, WIDTH, 1, np.dtype(np.uint16))
        exchange = MessageExchange(*arguments) if kind == "messages" else open_exchange(*arguments)
        assert isinstance(exchange, MessageExchange) == (kind == "messages")
        sent, rows = [comm.bytes_sent], []
        for call in (exchange.alltoall, lambda: give(exchange, COUNT)):
            exchange.outgoing().reshape(-1)[:] = np.arange(n * WIDTH) + 100 * comm.rank
            rows.append([row.tolist() for row in call()])
            sent.append(comm.bytes_sent)
        comm.barrier()
        exchange.close()
        return np.diff(sent).tolist(), rows

    for me, (sent, (swapped, gathered)) in enumerate(run_in_threads(n, rank, timeout_s=20)):
        assert sent == [WIDTH * 2 * (n - 1), (COUNT + 1) * 2 * (n - 1)]  # and whether the rank has failed
        assert swapped == [[100 * i + WIDTH * me + k for k in range(WIDTH)] for i in range(n)]
        assert gathered == [[100 * i + k for k in range(COUNT)] for i in range(n)]


@pytest.mark.covering(1)
@pytest.mark.parametrize("n", [3, 4, 5, 7])
@pytest.mark.parametrize(
    "host_of",
    [
        lambda rank: rank // 2,
        lambda rank: rank % 2,
        lambda rank: rank // 3,
        lambda rank: min(rank, 1),
        lambda rank: max(rank - 1, 0),
    ],
)
def test_rows_between_hosts_are_added_up_before_they_cross(n: int, host_of: Any) -> None:
    """Whatever the turn: rows of this host, one sum of each other's, and as many bytes as without hosts."""
    if len({host_of(rank) for rank in range(n)}) == 1:
        return

    def filled(rank: int, turn: int) -> NDArray[Any]:
        made: NDArray[Any] = np.random.default_rng((rank, turn)).integers(0, 1 << 16, n * WIDTH, np.uint16)
        return made

    def rank(comm: Communicator) -> None:
        exchange = open_exchange(comm, WIDTH, 3, np.dtype(np.uint16), adds=True)
        assert isinstance(exchange, HostExchange)
        crossed: list[int] = []
        spy_on(comm, crossed)
        for turn in range(5):
            exchange.outgoing().reshape(-1)[:] = filled(comm.rank, turn)
            rows = exchange.alltoall()
            rows += exchange.arrived()
            hosts = comm.hosts()
            assert hosts is not None
            assert len(rows) == len(hosts.here) + len(hosts.elsewhere)
            every = [filled(one, turn).reshape(n, WIDTH)[comm.rank] for one in range(n)]
            np.testing.assert_array_equal(
                np.add.reduce(rows, axis=0, dtype=np.uint16), np.add.reduce(every, axis=0, dtype=np.uint16)
            )
            exchange.outgoing().reshape(-1)[:] = filled(comm.rank, turn)
            for one, row in enumerate(give(exchange, COUNT, failed=comm.rank == turn)):
                np.testing.assert_array_equal(row, filled(one, turn)[:COUNT])
            assert exchange.failing == [one for one in range(n) if one == turn]
        assert sum(crossed) == 5 * 2 * (
            WIDTH * len(hosts.charges) + (COUNT + 1) * len(hosts.relays)
        )  # one row for each rank elsewhere that this one stands for, and its own part to each other host
        readable = [exchange.result_of(one) is not None for one in range(n)]
        assert readable == [one in hosts.here for one in range(n)]
        comm.barrier()
        exchange.close()

    run_in_threads(n, rank, timeout_s=20, host_of=host_of)


def give(exchange: Exchange, count: int, *, failed: bool = False) -> list[NDArray[Any]]:
    exchange.give(count, failed=failed)
    return exchange.given()


def spy_on(comm: Any, crossed: list[int]) -> None:
    """Note the bytes of every message that a rank sends to another alone."""
    honest = comm.exchange

    def exchange(sends: Any, receives: Any) -> Any:
        crossed.extend(array.nbytes for array, _ in sends)
        return honest(sends, receives)

    comm.exchange = exchange
