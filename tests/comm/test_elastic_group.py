"""Steps of a group: retried by all ranks or by none, however ranks fail in them."""

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
from silofl.errors import ConfigError, DataError, ProtocolError, SiloflError, StoppedError

Body = Callable[[ElasticGroup], Any]


def groups(n: int, body: Body, **keys: Any) -> list[Any]:
    return run_in_threads(n, lambda comm: body(ElasticGroup(comm, **keys)), timeout_s=20)


def sum_of(group: ElasticGroup) -> int:
    """1 for each rank that takes part, times its number."""
    return int(group.comm.allreduce(np.array([10**group.silo_id]))[0])


@pytest.mark.parametrize("failed", [0, 1, 3])
def test_survivors_retry_a_step(failed: int) -> None:
    def body(group: ElasticGroup) -> Any:
        taken = []

        def work() -> int:
            taken.append(group.members)
            if group.silo_id == failed:
                raise SimulatedCrash
            return sum_of(group)

        return group.step(work), taken, group.completed, [failure.silos for failure in group.failures]

    left = tuple(k for k in range(4) if k != failed)
    result = (sum(10**k for k in left), [(0, 1, 2, 3), left], 1, [(failed,)])
    assert groups(4, body) == [None if k == failed else result for k in range(4)]


def test_a_step_that_one_rank_completed_is_not_retried() -> None:
    """Rank 0 fails when all have contributed, and only rank 1 has come out of the step by then."""

    def body(group: ElasticGroup) -> Any:
        taken = []

        def work() -> int:
            taken.append(group.members)
            return sum_of(group)

        barrier = group.comm.barrier

        def late_error() -> None:
            barrier()
            if group.silo_id > 1:
                raise RankFailedError("the failure was detected before the end of the barrier")

        group.comm.barrier = late_error  # type: ignore[method-assign]
        first = group.step(work)
        if group.silo_id == 0:
            raise SimulatedCrash
        second = group.step(work)
        return first, second, taken, group.completed

    all_ranks = (0, 1, 2, 3)
    died, ahead, *behind = groups(4, body)
    assert died is None
    assert ahead == (1111, 1110, [all_ranks, all_ranks, (1, 2, 3)], 2)
    assert behind == [(1111, 1110, [all_ranks, (1, 2, 3)], 2)] * 2


def test_several_ranks_fail_at_once_and_one_after_another() -> None:
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
        totals, failures, members, completed = results[silo]
        assert (totals, members, completed) == (sums, (1, 3), 4)
        assert sorted(one for failed in failures for one in failed) == sorted(deaths)
    assert [results[silo] for silo in deaths] == [None] * 4


@pytest.mark.parametrize("when", ["recover", "exchange", "announce"])
def test_a_rank_fails_while_the_others_recover(when: str) -> None:
    """Rank 3 fails after rank 0, before or after it has recovered."""

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


def test_an_error_of_all_ranks_is_the_result_of_its_step() -> None:
    def body(group: ElasticGroup) -> Any:
        def work() -> None:
            error = DataError("nothing here") if group.silo_id == 2 else None
            raise_if_any(group.comm, error)

        with pytest.raises(DataError, match="nothing here") as caught:
            group.step(work)
        return caught.value.rank, group.completed, group.step(lambda: sum_of(group))

    assert groups(3, body) == [(2, 1, 111)] * 3


def test_an_error_is_raised_on_all_survivors_though_a_rank_failed_beside_it() -> None:
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


def test_an_error_of_one_rank_only_ends_all() -> None:
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


def test_survivors_stop_together() -> None:
    calls = []

    def refuse(failure: RankFailure, left: tuple[int, ...]) -> SiloflError | None:
        calls.append((failure.silos, left))
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
    assert sorted(calls) == sorted([((0,), (1, 2, 3))] * 3 + [((2,), (1, 3))] * 2)


def test_a_group_that_is_not_fault_tolerant_raises_the_failure() -> None:
    def body(group: ElasticGroup) -> Any:
        assert not group.fault_tolerant
        if group.silo_id == 1:
            raise SimulatedCrash
        with pytest.raises(RankFailedError):
            group.step(lambda: sum_of(group))
        return group.members, group.failures

    assert groups(3, body, fault_tolerant=False) == [((0, 1, 2), []), None, ((0, 1, 2), [])]


def test_an_error_without_a_failed_rank_is_not_retried_for_ever() -> None:
    def body(group: ElasticGroup) -> None:
        def work() -> None:
            raise RankFailedError("wrongly")

        with pytest.raises(RuntimeError, match="although no rank did"):
            group.step(work)

    groups(2, body)


def test_a_group_adopts_other_ranks() -> None:
    """Ranks 0 and 1 have completed two steps; rank 2 is new and gets their number."""

    def rank(comm: ThreadCommunicator) -> Any:
        group, replacements = ElasticGroup(comm), []
        if comm.rank < 2:
            group._completed = 2
            comm.on_replace(lambda merged: replacements.append(merged.members))
            group.adopt(comm)
        else:
            group.adopt(comm, 2)
        assert group.completed == 3

        def work() -> int:
            if group.silo_id == 0:
                raise SimulatedCrash
            return sum_of(group)

        return group.step(work), group.completed, replacements

    expected = [(0, 1, 2), (1, 2)]
    assert run_in_threads(3, rank, timeout_s=20) == [None, (110, 4, expected), (110, 4, [])]


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


def test_memory_of_a_failed_rank_stays_readable() -> None:
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


def test_a_simulated_crash_is_no_error_of_the_run() -> None:
    def rank(comm: Communicator) -> int:
        if comm.rank != 1:
            raise SimulatedCrash
        return comm.recover().size

    assert run_in_threads(3, rank, timeout_s=20) == [None, 1, None]


@pytest.mark.parametrize("told", [1, 5, -1, "much"])
def test_a_liar_cannot_end_a_step_that_others_are_in(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silo 3 fails in the step; silo 1 tells that it has completed it, more than that, or the one before."""

    def body(group: ElasticGroup) -> Any:
        group.step(lambda: None)

        def work() -> int:
            if group.silo_id == 3:
                raise SimulatedCrash
            if group.silo_id == 1:
                group._completed = told if isinstance(told, str) else group._completed + told
            return sum_of(group)

        try:
            return group.step(work)
        except SiloflError as error:
            return error

    ends = groups(5, body)
    assert ends[3] is None
    assert all(isinstance(end, ProtocolError) for end in (ends[0], ends[2], ends[4])), ends
    assert all("silo 1" in str(end) for end in (ends[0], ends[2], ends[4]))
