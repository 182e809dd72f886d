"""A rank that lives and does nothing is found out by its missing heartbeats; one that works is not."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import numpy as np
import pytest

from silofl.comm.peer_heartbeats import Limits, _Link
from silofl.launcher import watchdog
from silofl.launcher.watchdog import Progress

LIMITS = Limits(8.0, 20.0)


class Broken(Exception):
    """What MPI raises where a rank failed."""


class Request:
    def __init__(self, done: Any) -> None:
        self.Test, self.Cancel = done, lambda: None


class Wire:
    """Messages of ranks in one process."""

    def __init__(self) -> None:
        self.queues: dict[tuple[int, int], deque[Any]] = defaultdict(deque)
        self.broken = set[int]()
        """Ranks that failed."""
        self.slow = set[int]()
        """Ranks that take no message in."""

    def rank(self, rank: int, size: int) -> Any:
        wire = self

        class Handle:
            def Irecv(self, buffer: Any, source: int) -> Request:
                def done() -> bool:
                    if source in wire.broken:
                        raise Broken
                    queue = wire.queues[source, rank]
                    if not queue:
                        return False
                    buffer[:] = queue.popleft()
                    return True

                return Request(done)

            def Isend(self, buffer: Any, to: int) -> Request:
                if to in wire.broken:
                    raise Broken
                wire.queues[rank, to].append(np.array(buffer))
                return Request(lambda: to not in wire.slow)

        class Comm:
            handle, mpi_error, members = Handle(), Broken, tuple(range(10, 10 + size))

        Comm.rank, Comm.size = rank, size  # type: ignore[attr-defined]
        return Comm()


class Ranks:
    """Three ranks, and what their main threads do: a tick is a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wire = Wire()
        self.links = [_Link(self.wire.rank(rank, 3), 1) for rank in range(3)]
        self.does = [Progress(1, waiting=True, in_rounds=True) for _ in range(3)]
        self.runs = {0, 1, 2}
        self._now = 0
        monkeypatch.setattr(watchdog, "progress", lambda: self.does[self._now])

    def tick(self, times: int = 1, *, working: set[int] = frozenset()) -> list[str]:  # type: ignore[assignment]
        for _ in range(times):
            for rank in sorted(self.runs):
                self._now = rank
                if rank in working:
                    before = self.does[rank]
                    self.does[rank] = before._replace(heartbeats=before.heartbeats + 1, waiting=False)
                self.links[rank].exchange(always=False)
        return [self.links[rank].reason(LIMITS, 1.0) for rank in sorted(self.runs)]


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Ranks:
    return Ranks(monkeypatch)


def test_a_silo_that_trains_for_long_is_left_alone_and_so_are_those_that_wait_for_it(ranks: Ranks) -> None:
    assert ranks.tick(100, working={1}) == ["", "", ""]


def test_before_its_rounds_a_silo_may_load_for_as_long_as_it_takes(ranks: Ranks) -> None:
    ranks.does[1] = Progress(0, waiting=False, in_rounds=False)
    assert ranks.tick(100) == ["", "", ""]


@pytest.mark.parametrize("frozen", [False, True], ids=["its main thread does nothing", "no thread runs"])
def test_a_silent_silo_is_named_by_the_others_after_the_limit(ranks: Ranks, frozen: bool) -> None:
    ranks.tick(3, working={0, 1, 2})
    ranks.does[2] = ranks.does[2]._replace(waiting=True)
    if frozen:
        ranks.runs.discard(1)
    assert not any(ranks.tick(6, working={0}))
    said = ranks.tick(3, working={0})
    others = [said[0], said[-1]]
    assert all(one.startswith("silo 11 has shown no progress for 8 s") for one in others)
    assert len({*others}) == 1
    assert all("start the same command with --resume" in one for one in others)


def test_before_its_rounds_a_silo_is_waited_for_longer(ranks: Ranks) -> None:
    """A library that is being loaded may let no thread run."""
    ranks.does = [Progress(1, waiting=rank != 1, in_rounds=False) for rank in range(3)]
    ranks.tick(2)
    ranks.runs.discard(1)
    assert not any(ranks.tick(55))
    assert all(one.startswith("silo 11 has shown no progress for 60 s") for one in ranks.tick(8))


def test_a_rank_that_ends_the_job_has_the_others_end_with_its_code(ranks: Ranks) -> None:
    ranks.tick(2)
    ranks.links[2].announce_end(2)
    ranks.tick(1)
    assert [link.ending for link in ranks.links] == [2, 2, 0]
    ranks.links[0].announce_end(75)  # no more: they have been told
    ranks.tick(1)
    assert [link.ending for link in ranks.links] == [2, 2, 0]


def test_no_code_of_a_peer_is_taken_for_success(ranks: Ranks) -> None:
    ranks.links[2].announce_end(256)
    ranks.tick(1)
    assert ranks.links[0].ending == 1


def test_an_ending_reaches_a_rank_that_has_not_taken_in_the_heartbeat_before(ranks: Ranks) -> None:
    ranks.wire.slow.add(0)
    ranks.tick(1)
    ranks.links[2].announce_end(2)
    ranks.tick(1)
    assert [link.ending for link in ranks.links] == [2, 2, 0]


WAITING = "every silo has said for 20 s that it waits for the others, and "


def test_of_all_that_wait_the_one_that_is_furthest_behind_is_named_after_a_longer_limit(ranks: Ranks) -> None:
    """It waits, too, but for something that the others are beyond, or have never been at."""
    for rank, waits in enumerate((7, 6, 7)):
        ranks.does[rank] = ranks.does[rank]._replace(waits=waits)
    assert not any(ranks.tick(20))
    (said,) = set(ranks.tick(2))
    assert said == f"{WAITING}silo 11 holds them back: all silos end; start the same command with --resume"


def test_where_all_wait_in_the_same_exchange_the_network_is_said_to_have_lost_it(ranks: Ranks) -> None:
    assert not any(ranks.tick(20))
    assert all(
        one.startswith(f"{WAITING}all in the same exchange, which the network") for one in ranks.tick(2)
    )


def test_a_rank_that_failed_is_nothing_that_ends_the_job(ranks: Ranks) -> None:
    ranks.runs.discard(2)
    ranks.wire.broken.add(2)
    assert ranks.tick(30, working={0}) == ["", ""]
    ranks.links[0].cancel()


def test_while_ranks_recover_from_a_failure_another_silent_one_is_named(ranks: Ranks) -> None:
    """The survivors wait for it to make another communicator with them."""
    ranks.tick(3, working={0, 1, 2})
    ranks.runs = {0}  # rank 2 dies, and rank 1 does nothing more
    ranks.wire.broken.add(2)
    assert not any(ranks.tick(6))
    (said,) = ranks.tick(3)
    assert said.startswith("silo 11 has shown no progress for 8 s")


def test_a_rank_without_peers_waits_for_nobody(ranks: Ranks) -> None:
    ranks.runs = {0}
    ranks.wire.broken |= {1, 2}
    assert ranks.tick(50) == [""]
