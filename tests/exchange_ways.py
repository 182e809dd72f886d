"""The ways in which threads exchange rows of a sum: all of them, whatever threads have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from silofl.aggregation.exchanges import Exchange, MessageExchange
from silofl.comm.threads import run_in_threads

WAYS = ["memory", "messages", "hosts"]
"""Memory of one host; messages alone; two ranks a host, and one on the last where their number is odd."""
UNEQUAL = [(0, 0, 1, 2), (0, 0, 0, 1), (0, 1, 1, 0), (0, 0, 1, 1, 2), (0, 1, 1, 1, 1), (1, 0, 1, 1, 0)]
"""Hosts of four and five ranks that have unequally many, or not their neighbours."""


def by_messages(
    comm: Any, width: int, length: int, dtype: Any, *, adds: bool = False, sole: int | None = None
) -> Exchange:
    return MessageExchange(comm, width, length, dtype)


def use(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "messages":
        monkeypatch.setattr("silofl.aggregation.reduce_scatter.open_exchange", by_messages)
        monkeypatch.setattr("silofl.aggregation.additive.open_exchange", by_messages)
    if way == "hosts":
        place(lambda rank: rank // 2, monkeypatch)


def use_hosts(places: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each rank of every run on the host of this number: (0, 0, 1) are two ranks on one and one."""
    place(places.__getitem__, monkeypatch)


def place(host_of: Callable[[int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run_in_threads.__kwdefaults__, "host_of", host_of)  # type: ignore[arg-type]
