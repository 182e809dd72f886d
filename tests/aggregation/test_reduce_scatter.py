"""Rows by messages and through shared memory: the same rows, and the same number of bytes sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl.aggregation.reduce_scatter import MessageExchange, open_exchange
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
        for call, given in ((exchange.alltoall, ()), (exchange.allgather, (COUNT,))):
            exchange.outgoing().reshape(-1)[:] = np.arange(n * WIDTH) + 100 * comm.rank
            rows.append([row.tolist() for row in call(*given)])
            sent.append(comm.bytes_sent)
        comm.barrier()
        exchange.close()
        return np.diff(sent).tolist(), rows

    for me, (sent, (swapped, gathered)) in enumerate(run_in_threads(n, rank, timeout_s=20)):
        assert sent == [WIDTH * 2 * (n - 1), (COUNT + 1) * 2 * (n - 1)]  # and whether the rank has failed
        assert swapped == [[100 * i + WIDTH * me + k for k in range(WIDTH)] for i in range(n)]
        assert gathered == [[100 * i + k for k in range(COUNT)] for i in range(n)]
