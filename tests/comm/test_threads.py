"""`ThreadCommunicator`: the shared body of checks, and that nothing ever hangs or aliases."""

import threading
import time

import numpy as np
import pytest

from silofl.comm import run_in_threads
from silofl.comm.threads import PeerFailed
from tests.comm.comm_body import CHECKS, check_shared_buffer
from tests.comm.counting_body import COUNTING_CHECKS


@pytest.mark.parametrize("check", [*CHECKS, *COUNTING_CHECKS], ids=lambda check: check.__name__)
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_body(check, n):
    run_in_threads(n, check, timeout_s=30)


@pytest.mark.parametrize("n", [3, 4, 7])
def test_hosts_that_ranks_pretend_to_be_on(n):
    def body(comm):
        hosts = comm.hosts()
        assert comm.shared_buffer(8) is None
        check_shared_buffer(hosts.own)
        apart = [other for other in range(n) if other not in hosts.here]
        assert list(hosts.charges) == [one for one in apart if hosts.relay(one, hosts.here) == comm.rank]
        return hosts.groups, hosts.own.members, hosts.relays

    found = run_in_threads(n, body, timeout_s=30, host_of=lambda rank: rank % 2)
    for rank, (groups, here, relays) in enumerate(found):
        assert groups == (tuple(range(0, n, 2)), tuple(range(1, n, 2)))
        assert here == tuple(range(rank % 2, n, 2))
        other = groups[1 - rank % 2]
        assert relays == (other[rank // 2 % len(other)],)


def test_some_silos_go_on_alone():
    def body(comm):
        replaced = []
        comm.on_replace(replaced.append)
        part = comm.part((0, 2, 3))
        if comm.rank == 1:
            return part
        part.notify_replaced()
        assert replaced == [part]
        return part.members, part.rank, part.allgather_bytes(bytes([comm.rank])), part.host_groups()

    told = [b"\0", b"\2", b"\3"]
    found = run_in_threads(4, body, host_of=lambda rank: rank // 2)
    groups = ((0,), (1, 2))
    assert found == [((0, 2, 3), 0, told, groups), None, *(((0, 2, 3), k, told, groups) for k in (1, 2))]


def test_no_hosts_where_all_share_one_or_none_is_shared():
    assert run_in_threads(3, lambda comm: comm.hosts()) == [None] * 3
    assert run_in_threads(3, lambda comm: comm.hosts(), host_of=lambda rank: rank) == [None] * 3


def test_results_come_in_rank_order():
    def late(comm):
        time.sleep(0.02 * (3 - comm.rank))
        return comm.rank * 10

    assert run_in_threads(4, late) == [0, 10, 20, 30]


def test_the_original_exception_is_raised_and_peers_are_woken():
    original, begun, woken = KeyError("silo"), time.monotonic(), []

    def body(comm):
        if comm.rank == 1:
            time.sleep(0.05)
            raise original
        try:
            comm.barrier()
        except PeerFailed:
            woken.append(comm.rank)
            raise

    with pytest.raises(KeyError) as caught:
        run_in_threads(3, body, timeout_s=30)
    assert caught.value is original
    assert sorted(woken) == [0, 2]
    assert time.monotonic() - begun < 5


def test_a_rank_that_returns_early_is_named():
    with pytest.raises(RuntimeError, match=r"ranks \[2\] returned without calling barrier"):
        run_in_threads(3, lambda comm: None if comm.rank == 2 else comm.barrier(), timeout_s=30)


def test_different_collectives_are_refused():
    def body(comm):
        return comm.barrier() if comm.rank else comm.allgather_bytes(b"")

    with pytest.raises(ValueError, match=r"calls .* where another rank calls"):
        run_in_threads(2, body, timeout_s=30)


@pytest.mark.parametrize("dtype", ["float64", "uint8"])
def test_different_dtypes_or_shapes_are_refused(dtype):
    def body(comm):
        comm.allreduce(np.ones(3 + (dtype == "float64"), "float64") if comm.rank else np.ones(3, "float64"))
        comm.allgather(
            *((np.ones(1, dtype), np.ones(2, dtype)) if comm.rank else (np.ones(1), np.ones(2))), [1, 1]
        )

    with pytest.raises(ValueError, match="where another rank calls"):
        run_in_threads(2, body, timeout_s=30)


def test_a_wait_ends_at_the_deadline():
    release, begun = threading.Event(), time.monotonic()

    def body(comm):
        if comm.rank == 0:
            release.wait(20)
        comm.barrier()

    with pytest.raises(TimeoutError, match=r"ranks \[0\]"):
        run_in_threads(2, body, timeout_s=0.3)
    release.set()
    assert time.monotonic() - begun < 5


def test_a_rank_that_never_calls_anything_ends_at_the_deadline():
    release = threading.Event()
    with pytest.raises(TimeoutError, match=r"ranks \[1\] were still running"):
        run_in_threads(2, lambda comm: release.wait(20) if comm.rank else None, timeout_s=0.3)
    release.set()


def test_abort_ends_every_rank_with_its_exit_code():
    def body(comm):
        if comm.rank == 1:
            comm.abort(75)
        comm.barrier()

    with pytest.raises(SystemExit) as caught:
        run_in_threads(3, body, timeout_s=30)
    assert caught.value.code == 75


def test_receivers_never_alias_senders():
    def body(comm):
        send, receive = np.zeros((2, 4)), np.zeros((2, 4))
        comm.alltoall(send, receive)
        gathered = np.zeros(4)
        comm.allgather(send[0, :2].copy(), gathered, [2, 2])
        total = comm.allreduce(send)
        comm.barrier()
        send[:] = 9 + comm.rank
        comm.barrier()
        return not (receive.any() or gathered.any() or total.any())

    assert run_in_threads(2, body) == [True, True]


def test_a_sender_may_overwrite_its_array_when_its_call_has_returned():
    """Rank 0 comes last, so its call returns at once, before rank 1 is awake and reads."""

    def body(comm):
        receive, gathered = np.zeros((2, 3)), np.zeros(4)
        for _ in range(20):
            time.sleep(0.01 * (comm.rank == 0))
            send = np.full((2, 3), comm.rank + 1.0)
            comm.alltoall(send, receive)
            send[:] = -1
            assert receive[:, 0].tolist() == [1, 2]
            time.sleep(0.01 * (comm.rank == 0))
            own = np.full(2, comm.rank + 1.0)
            comm.allgather(own, gathered, [2, 2])
            own[:] = -1
            assert gathered.tolist() == [1, 1, 2, 2]

    run_in_threads(2, body, timeout_s=10)


def test_a_freed_communicator_is_refused():
    def body(comm):
        other = comm.duplicate()
        other.free()
        with pytest.raises(RuntimeError, match="freed"):
            other.barrier()

    run_in_threads(2, body)


def test_collectives_are_forgotten():
    def body(comm):
        for _ in range(50):
            comm.allgather_bytes(b"x")
        comm.barrier()
        time.sleep(0.05)
        return len(comm._rendezvous.collectives)

    assert max(run_in_threads(3, body)) <= 1
