"""MPI_Finalize waits for ever for peers that failed: a process that ends by it has a time limit."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from silofl.comm import shutdown


class Peers:
    """A communicator whose finalization returns once `gone` is set."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self.left = False

    def finalize(self) -> None:
        assert self.gone.wait(5), "nothing ended this process"

    def leave_launcher(self) -> None:
        self.left = True


def test_a_process_that_waits_for_dead_peers_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "FINALIZE_TIMEOUT_S", 0.05)
    peers: Any = Peers()
    shutdown.finalize_or(peers.gone.set, peers)
    assert peers.gone.is_set()
    assert peers.left


def test_a_process_whose_peers_are_there_ends_by_itself() -> None:
    peers: Any = Peers()
    peers.gone.set()
    ended: list[int] = []
    shutdown.finalize_or(lambda: ended.append(1), peers)
    assert not ended
    assert not peers.left
