"""Steps of a crew: taken again by all or by nobody, however ranks are lost in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from silofl.comm import Communicator, run_in_threads
from silofl.comm.crew import Crew, Loss
from silofl.comm.lost import Died, RanksLost
from silofl.comm.threads import PeerFailed, ThreadCommunicator
from silofl.comm.verdict import raise_together, together
from silofl.errors import ConfigError, DataError, SiloflError, StoppedError

Body = Callable[[Crew], Any]


def crews(n: int, body: Body, **keys: Any) -> list[Any]:
    return run_in_threads(n, lambda comm: body(Crew(comm, **keys)), timeout_s=20)


def sum_of(crew: Crew) -> int:
    """1 for each rank that takes part, times its number."""
    return int(crew.comm.allreduce(np.array([10**crew.number]))[0])


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_step_is_taken_again_by_those_who_are_left(lost: int) -> None:
    def body(crew: Crew) -> Any:
        taken = []

        def work() -> int:
            taken.append(crew.members)
            if crew.number == lost:
                raise Died
            return sum_of(crew)

        return crew.step(work), taken, crew.completed, [loss.lost for loss in crew.losses]

    left = tuple(k for k in range(4) if k != lost)
    result = (sum(10**k for k in left), [(0, 1, 2, 3), left], 1, [(lost,)])
    assert crews(4, body) == [None if k == lost else result for k in range(4)]


def test_a_step_that_somebody_completed_is_not_taken_again() -> None:
    """Rank 0 dies when all have brought everything, and only rank 1 has come out of the step by then."""

    def body(crew: Crew) -> Any:
        taken = []

        def work() -> int:
            taken.append(crew.members)
            return sum_of(crew)

        barrier = crew.comm.barrier

        def late_news() -> None:
            barrier()
            if crew.number > 1:
                raise RanksLost("the news of the loss came before the end of the barrier")

        crew.comm.barrier = late_news  # type: ignore[method-assign]
        first = crew.step(work)
        if crew.number == 0:
            raise Died
        second = crew.step(work)
        return first, second, taken, crew.completed

    everybody = (0, 1, 2, 3)
    died, ahead, *behind = crews(4, body)
    assert died is None
    assert ahead == (1111, 1110, [everybody, everybody, (1, 2, 3)], 2)
    assert behind == [(1111, 1110, [everybody, (1, 2, 3)], 2)] * 2


def test_several_are_lost_at_once_and_one_after_another() -> None:
    deaths = {0: 1, 4: 1, 2: 2, 5: 3}

    def body(crew: Crew) -> Any:
        sums = []
        for number in range(4):

            def work(number: int = number) -> int:
                if deaths.get(crew.number) == number:
                    raise Died
                return sum_of(crew)

            sums.append(crew.step(work))
        return sums, [loss.lost for loss in crew.losses], crew.members, crew.completed

    results = crews(6, body)
    sums = [111111, 101110, 101010, 1010]
    for silo in (1, 3):
        totals, losses, members, completed = results[silo]
        assert (totals, members, completed) == (sums, (1, 3), 4)
        assert sorted(one for lost in losses for one in lost) == sorted(deaths)
    assert [results[silo] for silo in deaths] == [None] * 4


@pytest.mark.parametrize("when", ["recover", "exchange", "announce"])
def test_a_rank_is_lost_while_the_others_recover(when: str) -> None:
    """Rank 3 dies of the news that rank 0 is lost, before or after it met the others."""

    def body(crew: Crew) -> Any:
        comm = crew.comm
        if crew.number == 3:

            def die(*anything: object) -> Any:
                raise Died

            if when == "recover":
                comm.recover = die  # type: ignore[method-assign]
            elif when == "announce":
                comm.follow(die)
            else:
                recover = comm.recover

                def short() -> Any:
                    again = recover()
                    again.allgather_bytes = die
                    return again

                comm.recover = short  # type: ignore[method-assign]
        else:
            comm.follow(lambda heir: heir.barrier())

        def work() -> int:
            if crew.number == 0:
                raise Died
            return sum_of(crew)

        return crew.step(work), crew.members, sorted({one for loss in crew.losses for one in loss.lost})

    assert crews(4, body) == [None, (110, (1, 2), [0, 3]), (110, (1, 2), [0, 3]), None]


def test_an_error_that_all_raise_together_is_the_result_of_its_step() -> None:
    def body(crew: Crew) -> Any:
        def work() -> None:
            error = DataError("nothing here") if crew.number == 2 else None
            raise_together(crew.comm, error)

        with pytest.raises(DataError, match="nothing here") as caught:
            crew.step(work)
        return caught.value.rank, crew.completed, crew.step(lambda: sum_of(crew))

    assert crews(3, body) == [(2, 1, 111)] * 3


def test_an_error_is_raised_by_all_who_are_left_though_a_rank_was_lost_beside_it() -> None:
    def body(crew: Crew) -> Any:
        taken = []

        def work() -> None:
            taken.append(crew.members)
            with together(crew.comm):
                if crew.number == 1:
                    raise ConfigError("bad")
                if crew.number == 0:
                    raise Died

        with pytest.raises(ConfigError, match="bad"):
            crew.step(work)
        return taken, crew.completed

    left = [(0, 1, 2, 3), (1, 2, 3)]
    assert crews(4, body) == [None, *[(left, 1)] * 3]


def test_an_error_of_one_rank_alone_ends_all() -> None:
    woken = []

    def body(crew: Crew) -> None:
        def work() -> None:
            if crew.number == 1:
                raise SiloflError("only here")
            sum_of(crew)

        try:
            crew.step(work)
        except PeerFailed:
            woken.append(crew.number)
            raise

    with pytest.raises(SiloflError, match="only here"):
        crews(3, body)
    assert sorted(woken) == [0, 2]


def test_those_who_are_left_refuse_together() -> None:
    told = []

    def refuse(loss: Loss, left: tuple[int, ...]) -> SiloflError | None:
        told.append((loss.lost, left))
        return StoppedError("too few") if len(left) < 3 else None

    def body(crew: Crew) -> Any:
        def work(dying: int) -> int:
            if crew.number == dying:
                raise Died
            return sum_of(crew)

        first = crew.step(lambda: work(0))
        with pytest.raises(StoppedError, match="too few") as caught:
            crew.step(lambda: work(2))
        return first, caught.value.rank, crew.completed, crew.members

    assert crews(4, body, refuse=refuse) == [None, (1110, 0, 1, (1, 3)), None, (1110, 0, 1, (1, 3))]
    assert sorted(told) == sorted([((0,), (1, 2, 3))] * 3 + [((2,), (1, 3))] * 2)


def test_without_repeats_the_loss_goes_to_the_caller() -> None:
    def body(crew: Crew) -> Any:
        assert not crew.repeats
        if crew.number == 1:
            raise Died
        with pytest.raises(RanksLost):
            crew.step(lambda: sum_of(crew))
        return crew.members, crew.losses

    assert crews(3, body, repeats=False) == [((0, 1, 2), []), None, ((0, 1, 2), [])]


def test_a_collective_that_fails_although_nobody_is_lost_is_not_tried_for_ever() -> None:
    def body(crew: Crew) -> None:
        def work() -> None:
            raise RanksLost("wrongly")

        with pytest.raises(RuntimeError, match="although no rank is lost"):
            crew.step(work)

    crews(2, body)


def test_a_crew_goes_on_with_other_ranks() -> None:
    """Ranks 0 and 1 have taken two steps and lost one; rank 2, who is new, is told of them."""

    def rank(comm: ThreadCommunicator) -> Any:
        crew, heard = Crew(comm), []
        if comm.rank < 2:
            crew._completed = 2
            comm.follow(lambda heir: heard.append(heir.members))
            crew.replace(comm)
        else:
            crew.replace(comm, 2)
        assert crew.completed == 3

        def work() -> int:
            if crew.number == 0:
                raise Died
            return sum_of(crew)

        return crew.step(work), crew.completed, heard

    news = [(0, 1, 2), (1, 2)]
    assert run_in_threads(3, rank, timeout_s=20) == [None, (110, 4, news), (110, 4, [])]


def test_duplicates_are_given_up_together() -> None:
    """Who waits in a duplicate for a rank that lives is woken when that one recovers from another's loss."""

    def rank(comm: Communicator) -> Any:
        beside = comm.duplicate()
        if comm.rank == 0:
            beside.iallgather(np.zeros(1), np.zeros(3), [1, 1, 1])
            raise Died
        with pytest.raises(RanksLost):
            comm.barrier() if comm.rank == 1 else beside.allgather(np.zeros(1), np.zeros(3), [1, 1, 1])
        heir = (comm if comm.rank == 1 else beside).recover()
        for old in (comm, beside):
            with pytest.raises(RanksLost):
                old.barrier()
        again = heir.duplicate()
        assert again.members == heir.members == (1, 2)
        assert heir.rank == comm.rank - 1
        return again.allgather_bytes(bytes([comm.rank]))

    assert run_in_threads(3, rank, timeout_s=5) == [None, [b"\1", b"\2"], [b"\1", b"\2"]]


def test_memory_of_a_lost_rank_stays_readable() -> None:
    def rank(comm: Communicator) -> Any:
        shared = comm.shared_buffer(8)
        assert shared is not None
        shared.segments[comm.rank][:] = comm.rank + 1
        shared.sync()
        if comm.rank == 0:
            raise Died
        heir = comm.recover()
        heir.barrier()
        return [segment.tolist() for segment in shared.segments]

    everything = [[k + 1] * 8 for k in range(3)]
    assert run_in_threads(3, rank, timeout_s=20) == [None, everything, everything]


def test_the_dead_are_nobodys_error() -> None:
    def rank(comm: Communicator) -> int:
        if comm.rank != 1:
            raise Died
        return comm.recover().size

    assert run_in_threads(3, rank, timeout_s=20) == [None, 1, None]
