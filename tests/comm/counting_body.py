"""Checks for every communicator that it counts what it sends: bytes and messages, by formulas."""

import threading

import numpy as np

from tests.comm.comm_body import checks_in, collective_assert


def check_bytes_sent(comm):
    n, me = comm.size, comm.rank

    def expect(nbytes, call, *given):
        before = comm.bytes_sent
        call(*given)
        sent = comm.bytes_sent - before
        collective_assert(comm, sent == nbytes, f"{call.__name__} of rank {me}: {sent}, not {nbytes}")

    for length in (0, 1, 5000):  # 5000 bytes are more than a slot of the eager path holds
        expect(length * (me + 1) * (n - 1), comm.allgather_bytes, b"x" * length * (me + 1))
        payloads = [b"x" * (length * (me + 2 * j)) for j in range(n)]
        expect(sum(length * (me + 2 * j) for j in range(n) if j != me), comm.alltoall_bytes, payloads)
        expect(length * (n - 1) * (me == n - 1), comm.broadcast_bytes, b"x" * length, n - 1)
    expect(round(700 * 8 * 2 * (n - 1) / n), comm.allreduce, np.ones((7, 100)))
    expect(7 * 2 * (n - 1), comm.alltoall, np.zeros((n, 7), np.uint16), np.zeros((n, 7), np.uint16))
    counts = [3 * i for i in range(n)]
    gathered = np.zeros(sum(counts), np.float32)
    expect(3 * me * 4 * (n - 1), comm.allgather, np.zeros(3 * me, np.float32), gathered, counts)
    expect(0, comm.barrier)
    buffer = None

    def share():
        nonlocal buffer
        buffer = comm.shared_buffer(8)
        buffer.sync()

    expect(0, share)
    buffer.free()
    expect(123, comm.count_sent, 123)


def check_messages_sent(comm):
    n, me, start = comm.size, comm.rank, comm.messages_sent
    comm.allgather_bytes(b"abc")
    comm.allgather_bytes(b"")
    comm.alltoall(np.zeros((n, 3)), np.empty((n, 3)))
    comm.broadcast_bytes(b"abc")
    comm.allreduce(np.zeros(4))
    comm.exchange([(np.zeros(2), (me + 1) % n)] * (n > 1), [(np.zeros(2), (me - 1) % n)] * (n > 1)).wait()
    copy = comm.duplicate()
    copy.count_sent(9, messages=2)
    copy.free()
    sent, want = comm.messages_sent - start, (n - 1) * (2 + (me == 0)) + 2 * (n > 1) + 2
    collective_assert(comm, sent == want, f"{sent}, not {want}")


def check_bytes_sent_of_all_duplicates_and_threads(comm):
    n, start, copies = comm.size, comm.bytes_sent, [comm.duplicate() for _ in range(2)]

    def send(copy):
        for _ in range(50):
            copy.allgather_bytes(b"abc")
            for _ in range(100):
                copy.count_sent(1)

    threads = [threading.Thread(target=send, args=(copy,)) for copy in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    want = 2 * 50 * (3 * (n - 1) + 100)
    sent = [one.bytes_sent - start for one in (comm, *copies)]
    for copy in copies:
        copy.free()
    collective_assert(comm, sent == [want] * 3, f"{sent}, not {want}")


COUNTING_CHECKS = checks_in(globals())
