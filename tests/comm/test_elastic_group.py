"""Steps of a group: taken again by all or by nobody, however ranks are lost in them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from silofl.comm import Communicator, run_in_threads
from silofl.comm.collective_errors import raise_if_any, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup, RankFailure
from silofl.comm.protocol import RankFailedError, SimulatedCrash
from silofl.comm.threads import PeerFailed, ThreadCommunicator
from silofl.errors import ConfigError, DataError, SiloflError, StoppedError

Body = Callable[[ElasticGroup], Any]


def groups(n: int, body: Body, **keys: Any) -> list[Any]:
    return run_in_threads(n, lambda comm: body(ElasticGroup(comm, **keys)), timeout_s=20)


def sum_of(group: ElasticGroup) -> int:
    """1 for each rank that takes part, times its number."""
    return int(group.comm.allreduce(np.array([10**group.silo_id]))[0])


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_step_is_taken_again_by_those_who_are_left(lost: int) -> None:
    def body(group: ElasticGroup) -> Any:
        taken = []

        def work() -> int:
            taken.append(group.members)
            if group.silo_id == lost:
                raise SimulatedCrash
            return sum_of(group)

        return group.step(work), taken, group.completed, [failure.silos for failure in group.failures]

    left = tuple(k for k in range(4) if k != lost)
    result = (sum(10**k for k in left), [(0, 1, 2, 3), left], 1, [(lost,)])
    assert groups(4, body) == [None if k == lost else result for k in range(4)]


def test_a_step_that_somebody_completed_is_not_taken_again() -> None:
    """Rank 0 dies when all have brought everything, and only rank 1 has come out of the step by then."""

    def body(group: ElasticGroup) -> Any:
        taken = []

        def work() -> int:
            taken.append(group.members)
            return sum_of(group)

        barrier = group.comm.barrier

        def late_news() -> None:
            barrier()
            if group.silo_id > 1:
                raise RankFailedError("the news of the loss came before the end of the barrier")

        group.comm.barrier = late_news  # type: ignore[method-assign]
        first = group.step(work)
        if group.silo_id == 0:
            raise SimulatedCrash
        second = group.step(work)
        return first, second, taken, group.completed

    everybody = (0, 1, 2, 3)
    died, ahead, *behind = groups(4, body)
    assert died is None
    assert ahead == (1111, 1110, [everybody, everybody, (1, 2, 3)], 2)
    assert behind == [(1111, 1110, [everybody, (1, 2, 3)], 2)] * 2


def test_several_are_lost_at_once_and_one_after_another() -> None:
    deaths = {0: 1, 4: 1, 2: 2, 5: 3}

    def body(group: ElasticGroup) -> Any:
        sums = []
        for number in range(4):

            def work(number: int = number) -> int:
                if deaths.get(group.silo_id) == number:
                    raise SimulatedCrash
                return sum_of(group)

            sums.append(group.step(work))
        return sums, [failure.silos for failure in group.failures], group.members, group.completed

    results = groups(6, body)
    sums = [111111, 101110, 101010, 1010]
    for silo in (1, 3):
        totals, losses, members, completed = results[silo]
        assert (totals, members, completed) == (sums, (1, 3), 4)
        assert sorted(one for lost in losses for one in lost) == sorted(deaths)
    assert [results[silo] for silo in deaths] == [None] * 4


@pytest.mark.parametrize("when", ["recover", "exchange", "announce"])
def test_a_rank_is_lost_while_the_others_recover(when: str) -> None:
    """Rank 3 dies of the news that rank 0 is lost, before or after it met the others."""

    def body(group: ElasticGroup) -> Any:
        comm = group.comm
        if group.silo_id == 3:

            def die(*anything: object) -> Any:
                raise SimulatedCrash

            if when == "recover":
                comm.recover = die  # type: ignore[method-assign]
            elif when == "announce":
                comm.on_replace(die)
            else:
                recover = comm.recover

                def short() -> Any:
                    again = recover()
                    again.allgather_bytes = die
                    return again

                comm.recover = short  # type: ignore[method-assign]
        else:
            comm.on_replace(lambda merged: merged.barrier())

        def work() -> int:
            if group.silo_id == 0:
                raise SimulatedCrash
            return sum_of(group)

        return (
            group.step(work),
            group.members,
            sorted({one for failure in group.failures for one in failure.silos}),
        )

    assert groups(4, body) == [None, (110, (1, 2), [0, 3]), (110, (1, 2), [0, 3]), None]


def test_an_error_that_all_raise_together_is_the_result_of_its_step() -> None:
    def body(group: ElasticGroup) -> Any:
        def work() -> None:
            error = DataError("nothing here") if group.silo_id == 2 else None
            raise_if_any(group.comm, error)

        with pytest.raises(DataError, match="nothing here") as caught:
            group.step(work)
        return caught.value.rank, group.completed, group.step(lambda: sum_of(group))

    assert groups(3, body) == [(2, 1, 111)] * 3


def test_an_error_is_raised_by_all_who_are_left_though_a_rank_was_lost_beside_it() -> None:
    def body(group: ElasticGroup) -> Any:
        taken = []

        def work() -> None:
            taken.append(group.members)
            with raise_on_all_ranks(group.comm):
                if group.silo_id == 1:
                    raise ConfigError("bad")
                if group.silo_id == 0:
                    raise SimulatedCrash

        with pytest.raises(ConfigError, match="bad"):
            group.step(work)
        return taken, group.completed

    left = [(0, 1, 2, 3), (1, 2, 3)]
    assert groups(4, body) == [None, *[(left, 1)] * 3]


def test_an_error_of_one_rank_alone_ends_all() -> None:
    woken = []

    def body(group: ElasticGroup) -> None:
        def work() -> None:
            if group.silo_id == 1:
                raise SiloflError("only here")
            sum_of(group)

        try:
            group.step(work)
        except PeerFailed:
            woken.append(group.silo_id)
            raise

    with pytest.raises(SiloflError, match="only here"):
        groups(3, body)
    assert sorted(woken) == [0, 2]


def test_those_who_are_left_refuse_together() -> None:
    told = []

    def refuse(failure: RankFailure, left: tuple[int, ...]) -> SiloflError | None:
        told.append((failure.silos, left))
        return StoppedError("too few") if len(left) < 3 else None

    def body(group: ElasticGroup) -> Any:
        def work(dying: int) -> int:
            if group.silo_id == dying:
                raise SimulatedCrash
            return sum_of(group)

        first = group.step(lambda: work(0))
        with pytest.raises(StoppedError, match="too few") as caught:
            group.step(lambda: work(2))
        return first, caught.value.rank, group.completed, group.members

    assert groups(4, body, stop_reason=refuse) == [None, (1110, 0, 1, (1, 3)), None, (1110, 0, 1, (1, 3))]
    assert sorted(told) == sorted([((0,), (1, 2, 3))] * 3 + [((2,), (1, 3))] * 2)


def test_without_repeats_the_loss_goes_to_the_caller() -> None:
    def body(group: ElasticGroup) -> Any:
        assert not group.fault_tolerant
        if group.silo_id == 1:
            raise SimulatedCrash
        with pytest.raises(RankFailedError):
            group.step(lambda: sum_of(group))
        return group.members, group.failures

    assert groups(3, body, fault_tolerant=False) == [((0, 1, 2), []), None, ((0, 1, 2), [])]


def test_a_collective_that_fails_although_nobody_is_lost_is_not_tried_for_ever() -> None:
    def body(group: ElasticGroup) -> None:
        def work() -> None:
            raise RankFailedError("wrongly")

        with pytest.raises(RuntimeError, match="although no rank did"):
            group.step(work)

    groups(2, body)


def test_a_crew_goes_on_with_other_ranks() -> None:
    """Ranks 0 and 1 have taken two steps and lost one; rank 2, who is new, is told of them."""

    def rank(comm: ThreadCommunicator) -> Any:
        group, heard = ElasticGroup(comm), []
        if comm.rank < 2:
            group._completed = 2
            comm.on_replace(lambda merged: heard.append(merged.members))
            group.adopt(comm)
        else:
            group.adopt(comm, 2)
        assert group.completed == 3

        def work() -> int:
            if group.silo_id == 0:
                raise SimulatedCrash
            return sum_of(group)

        return group.step(work), group.completed, heard

    news = [(0, 1, 2), (1, 2)]
    assert run_in_threads(3, rank, timeout_s=20) == [None, (110, 4, news), (110, 4, [])]


def enter(comm: Communicator) -> None:
    with suppress(RankFailedError):
        comm.barrier()


def entered(comm: Communicator) -> bool:
    """Whether rank 0 has entered this communicator's collective."""
    collectives = comm._rendezvous.collectives  # type: ignore[attr-defined]
    return any(0 in one.payloads for one in list(collectives.values()))


def test_duplicates_are_revoked_together() -> None:
    """A rank that waits in a duplicate for a living one is woken when that one recovers from a failure."""

    def rank(comm: Communicator) -> Any:
        beside = comm.duplicate()
        if comm.rank == 0:
            threading.Thread(target=enter, args=(beside,), daemon=True).start()
            while not entered(beside):
                time.sleep(0.001)
            raise SimulatedCrash
        with pytest.raises(RankFailedError):
            comm.barrier() if comm.rank == 1 else beside.barrier()
        merged = (comm if comm.rank == 1 else beside).recover()
        for old in (comm, beside):
            with pytest.raises(RankFailedError):
                old.barrier()
        again = merged.duplicate()
        assert again.members == merged.members == (1, 2)
        assert merged.rank == comm.rank - 1
        return again.allgather_bytes(bytes([comm.rank]))

    assert run_in_threads(3, rank, timeout_s=5) == [None, [b"\1", b"\2"], [b"\1", b"\2"]]


def test_bytes_sent_go_on_counting_after_a_failure() -> None:
    def rank(comm: Communicator) -> Any:
        beside = comm.duplicate()
        beside.allgather_bytes(b"abc")
        if comm.rank == 0:
            raise SimulatedCrash
        survivors = comm.recover()
        survivors.duplicate().allgather_bytes(b"a")
        return survivors.bytes_sent, beside.bytes_sent

    assert run_in_threads(3, rank, timeout_s=20) == [None, (7, 7), (7, 7)]


def test_memory_of_a_lost_rank_stays_readable() -> None:
    def rank(comm: Communicator) -> Any:
        shared = comm.shared_buffer(8)
        assert shared is not None
        shared.segments[comm.rank][:] = comm.rank + 1
        shared.sync()
        if comm.rank == 0:
            raise SimulatedCrash
        merged = comm.recover()
        merged.barrier()
        return [segment.tolist() for segment in shared.segments]

    everything = [[k + 1] * 8 for k in range(3)]
    assert run_in_threads(3, rank, timeout_s=20) == [None, everything, everything]


def test_the_dead_are_nobodys_error() -> None:
    def rank(comm: Communicator) -> int:
        if comm.rank != 1:
            raise SimulatedCrash
        return comm.recover().size

    assert run_in_threads(3, rank, timeout_s=20) == [None, 1, None]
