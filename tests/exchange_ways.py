"""The ways in which threads exchange rows of a sum: all of them, whatever threads have in common."""

from __future__ import annotations

from typing import Any

import pytest

from silofl.aggregation.exchanges import Exchange, MessageExchange
from silofl.comm.threads import run_in_threads

WAYS = ["memory", "messages", "hosts"]
"""Memory of one host; messages alone; two ranks a host, and one on the last where their number is odd."""


def by_messages(comm: Any, width: int, length: int, dtype: Any, *, adds: bool = False) -> Exchange:
    return MessageExchange(comm, width, length, dtype)


def use(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "messages":
        monkeypatch.setattr("silofl.aggregation.reduce_scatter.open_exchange", by_messages)
        monkeypatch.setattr("silofl.aggregation.additive.open_exchange", by_messages)
    if way == "hosts":
        monkeypatch.setitem(run_in_threads.__kwdefaults__, "host_of", lambda rank: rank // 2)  # type: ignore[arg-type]
