"""One body of checks for every communicator; expected values are formulas in rank and size.

An assertion is a collective: every rank learns the verdict, then all raise, so a failure never hangs.
"""

import threading
import time

import numpy as np

from silofl.comm.neighbourhood import CountedNeighbourhood, PairwiseNeighbourhood

DTYPES = ["uint8", "uint16", "uint32", "uint64", "int64", "float32", "float64"]
WIDTHS = [0, 1, 7, 64, 300]


def collective_assert(comm, ok, text):
    """Raise AssertionError on every rank if `ok` is false on any; names the ranks."""
    verdicts = comm.allgather_bytes(b"" if ok else text.encode() or b"?")
    failed = {rank: verdict.decode() for rank, verdict in enumerate(verdicts) if verdict}
    assert not failed, f"on {comm.size} ranks: {failed}"


def rows_sent(rank, size, width, dtype):
    """Row j, place k of what `rank` sends: distinct for every (rank, j, k) up to wrapping."""
    return (np.arange(size * width) * 3 + rank * 101).reshape(size, width).astype(dtype)


def place_of(rank, count, dtype):
    return (np.arange(count) * 5 + rank * 37 + 1).astype(dtype)


def text_for(rank, j, length):
    """Bytes that no part of could be mistaken for another part."""
    return b"".join(b"%d>%d:%d " % (rank, j, k) for k in range(length))[:length]


def check_rank_and_size(comm):
    ranks = comm.allgather_bytes(str(comm.rank).encode())
    collective_assert(comm, ranks == [str(i).encode() for i in range(comm.size)], f"ranks {ranks}")
    here = comm.allgather_bytes(f"{comm.local_rank}/{comm.local_size}".encode())
    collective_assert(comm, 0 <= comm.local_rank < comm.local_size, f"local {here}")
    collective_assert(comm, len(set(here)) == comm.size, f"local ranks repeat on one node: {here}")


def check_barrier(comm):
    for _ in range(3):
        comm.barrier()


def check_allgather_bytes(comm):
    for longest in (0, 1, 1000):
        payload = bytes([comm.rank % 251]) * (comm.rank * longest)
        got = comm.allgather_bytes(payload)
        want = [bytes([i % 251]) * (i * longest) for i in range(comm.size)]
        collective_assert(comm, got == want, f"longest {longest}: {[len(x) for x in got]}")


def check_alltoall_bytes(comm):
    n, me = comm.size, comm.rank
    for longest in (0, 1, 333):
        sent = [text_for(me, j, longest * ((me + 2 * j) % 4)) for j in range(n)]
        want = [text_for(i, me, longest * ((i + 2 * me) % 4)) for i in range(n)]
        collective_assert(comm, comm.alltoall_bytes(sent) == want, f"longest {longest}")


def check_broadcast_bytes(comm):
    for root in {0, comm.size // 2, comm.size - 1}:
        for length in (0, 1, 4321):
            payload = bytes([root + 1]) * length if comm.rank == root else b"ignored" * comm.rank
            got = comm.broadcast_bytes(payload, root)
            collective_assert(comm, got == bytes([root + 1]) * length, f"root {root}, length {length}")


def check_allreduce(comm):
    n, me = comm.size, comm.rank
    for dtype in ("uint32", "uint64", "int64", "float32", "float64"):
        for shape in ((0,), (1,), (), (5, 7)):
            values = np.full(shape, me + 1, dtype)
            kept = values.copy()
            for op, want in (("sum", n * (n + 1) // 2), ("min", 1), ("max", n)):
                total = comm.allreduce(values, op)
                right = total.dtype == dtype and total.shape == shape and bool((total == want).all())
                collective_assert(comm, right, f"{op} of {dtype} {shape}: {total}")
                collective_assert(comm, not np.shares_memory(total, values), "result aliases the input")
            collective_assert(comm, np.array_equal(values, kept), f"{dtype} input was written")


def check_allreduce_wraps(comm):
    values = np.full(33, 2**32 - 1, np.uint32)
    want = np.uint32((2**32 - comm.size) % 2**32)
    total = comm.allreduce(values)
    collective_assert(comm, bool((total == want).all()), f"uint32 sum {total[:2]}, not {want}")


def check_allreduce_strided(comm):
    values = np.arange(20, dtype=np.int64)[::2]
    total = comm.allreduce(values)
    collective_assert(comm, np.array_equal(total, values * comm.size), f"{total}")
    small = np.full(9, 100 + comm.rank, np.uint8)
    collective_assert(comm, int(comm.allreduce(small, "max")[0]) == 99 + comm.size, "max of uint8")


def check_allreduce_refuses(comm):
    for dtype in ("uint8", "int8", "uint16", "int16", "float16", "bool", "complex64"):
        collective_assert(
            comm, raises(TypeError, comm.allreduce, np.ones(3, dtype)), f"sum of {dtype} accepted"
        )
    collective_assert(comm, raises(ValueError, comm.allreduce, np.ones(3), "product"), "op accepted")


def check_alltoall(comm):
    for dtype in DTYPES:
        for width in WIDTHS:
            _exchange(comm, dtype, width)


def check_alltoall_refuses(comm):
    n = comm.size
    good = np.zeros((n, 3), np.uint16)
    cases = [
        (ValueError, good, np.zeros((n, 4), np.uint16)),
        (ValueError, np.zeros((n + 1, 3), np.uint16), np.zeros((n + 1, 3), np.uint16)),
        (ValueError, good.reshape(-1), np.zeros(3 * n, np.uint16)),
        (TypeError, good, np.zeros((n, 3), np.int16)),
        (TypeError, np.full((n, 3), None), np.full((n, 3), None)),
        (ValueError, np.zeros((n, 6), np.uint16)[:, ::2], good),
        (ValueError, good, good),
    ]
    for kind, send, receive in cases:
        refused = raises(kind, comm.alltoall, send, receive)
        collective_assert(
            comm, refused, f"accepted {send.shape} {send.dtype} to {receive.shape} {receive.dtype}"
        )
    frozen = np.zeros_like(good)
    frozen.flags.writeable = False
    collective_assert(comm, raises(ValueError, comm.alltoall, good, frozen), "wrote to a read-only array")


def check_allgather(comm):
    for dtype in DTYPES:
        for counts in _ragged(comm.size):
            _gather(comm, dtype, counts)


def check_allgather_in_place(comm):
    me = comm.rank
    for counts in _ragged(comm.size):
        receive = np.zeros(sum(counts), np.uint16)
        place = receive[sum(counts[:me]) : sum(counts[: me + 1])]
        place[:] = place_of(me, counts[me], "uint16")
        comm.allgather(place, receive, counts)
        want = np.concatenate([place_of(i, c, "uint16") for i, c in enumerate(counts)])
        collective_assert(comm, np.array_equal(receive, want), f"counts {counts}: {receive}")


def check_allgather_refuses(comm):
    n = comm.size
    receive, counts = np.zeros(2 * n, np.float32), [2] * n
    cases = [
        (TypeError, np.zeros(2), receive, counts),
        (ValueError, np.zeros(3, np.float32), receive, counts),
        (ValueError, np.zeros(2, np.float32), receive[1:], counts),
        (ValueError, np.zeros(2, np.float32), receive, [2] * (n + 1)),
        (ValueError, np.zeros(2, np.float32), np.zeros(4 * n, np.float32)[::2], counts),
        (ValueError, np.zeros(2, np.float32), receive, [2] * n + [0]),
    ]
    for kind, send, into, lengths in cases:
        collective_assert(comm, raises(kind, comm.allgather, send, into, lengths), f"accepted {lengths}")
    lengths = [-1] + [2] * (n - 1)
    negative = np.zeros(max(0, lengths[comm.rank])), np.zeros(max(0, sum(lengths))), lengths
    collective_assert(comm, raises(ValueError, comm.allgather, *negative), "accepted a negative count")
    wide, wrong = np.zeros(2 * n + 1, np.float32), 2 * comm.rank + 1
    overlap = raises(ValueError, comm.allgather, wide[wrong : wrong + 2], wide[: 2 * n], counts)
    collective_assert(comm, overlap, "accepted a send that overlaps another rank's part")


def check_duplicate(comm):
    other = comm.duplicate()
    send = rows_sent(comm.rank, comm.size, 9, "uint32")
    receive = np.zeros_like(send)
    beside = threading.Thread(target=comm.alltoall, args=(send, receive))
    if comm.rank % 2:  # ranks call the two communicators in different orders
        beside.start()
        time.sleep(0.01)
    texts = other.allgather_bytes(b"d%d" % other.rank)
    if not comm.rank % 2:
        beside.start()
    beside.join()
    want = np.stack([rows_sent(i, comm.size, 9, "uint32")[comm.rank] for i in range(comm.size)])
    collective_assert(comm, texts == [b"d%d" % i for i in range(comm.size)], f"{texts}")
    collective_assert(comm, np.array_equal(receive, want), "messages of two communicators were mixed up")
    other.free()
    collective_assert(comm, True, "")


def check_shared_buffer(comm):
    n, me = comm.size, comm.rank
    buffer = comm.shared_buffer(8 * me)
    present = comm.allgather_bytes(b"1" if buffer is not None else b"0")
    collective_assert(comm, set(present) in ({b"0"}, {b"1"}), "some ranks have a buffer and some have none")
    collective_assert(comm, buffer is not None, "ranks of one node have no shared memory")
    sizes = [segment.nbytes for segment in buffer.segments]
    collective_assert(comm, sizes == [8 * i for i in range(n)], f"sizes {sizes}")
    collective_assert(comm, not any(segment.any() for segment in buffer.segments), "segments are not zeros")
    for turn in range(1, 4):
        buffer.segments[(me + turn) % n].view(np.int64)[:] = me * 10 + turn
        buffer.sync()
        got = [set(segment.view(np.int64).tolist()) for segment in buffer.segments]
        want = [{(i - turn) % n * 10 + turn} if i else set() for i in range(n)]
        collective_assert(comm, got == want, f"turn {turn}: {got}, not {want}")
        buffer.sync()
    del got
    buffer.free()
    collective_assert(comm, True, "")


def check_exchange(comm):
    """Every rank sends to some others, of many lengths, and some have nothing to do."""
    n, me = comm.size, comm.rank

    def length(source, target):
        return 301 * source + 7 * target if (source + target) % 3 else None

    for dtype in ("uint16", "float32"):
        sends, receives = [], []
        for other in range(n):
            if other != me and length(me, other) is not None:
                sends.append((place_of(me + other, length(me, other), dtype), other))
            if other != me and length(other, me) is not None:
                receives.append((np.zeros(length(other, me), dtype), other))
        pending = comm.exchange(sends, receives)
        again = [(np.zeros_like(array), rank) for array, rank in receives]
        second = comm.exchange([(array + 1, rank) for array, rank in sends], again)
        pending.progress()
        pending.wait()
        second.wait()
        right = all(np.array_equal(got, place_of(me + by, got.size, dtype)) for got, by in receives)
        collective_assert(comm, right, f"{[(by, got) for got, by in receives]}")
        right = all(
            np.array_equal(got + 1, more) for (got, _), (more, _) in zip(receives, again, strict=True)
        )
        collective_assert(comm, right, f"the second: {again}")


def check_neighbourhood(comm):
    """Each rank sends to the next and to the one 3 places on, of which some are one, and some itself."""
    n, me = comm.size, comm.rank
    targets = sorted({(me + hop) % n for hop in (1, 3)} - {me})
    sources = sorted({(me - hop) % n for hop in (1, 3)} - {me})
    before, edges = comm.bytes_sent, (tuple(sources), tuple(targets))
    near = comm.neighbourhood(sources, targets)
    pairwise = CountedNeighbourhood(PairwiseNeighbourhood(comm.exchange, *edges), comm.count_sent)
    for way in (near, pairwise):
        collective_assert(comm, (way.sources, way.targets) == edges, "edges")
        for dtype in ("uint8", "uint64", "float32"):
            for width in WIDTHS:
                send = place_of(me, width, dtype)
                receive = np.zeros((len(sources), width), dtype)
                way.allgather(send, receive)
                want = np.array([place_of(one, width, dtype) for one in sources], dtype)
                right = np.array_equal(receive, want.reshape(receive.shape))
                collective_assert(comm, right, f"allgather {dtype} {width}: {receive}")
                rows = np.array([place_of(me + 5 * to, width, dtype) for to in targets], dtype)
                receive[...] = 0
                way.alltoall(rows.reshape(len(targets), width), receive)
                want = np.array([place_of(one + 5 * me, width, dtype) for one in sources], dtype)
                right = np.array_equal(receive, want.reshape(receive.shape))
                collective_assert(comm, right, f"alltoall {dtype} {width}: {receive}")
    sent = 2 * 2 * len(targets) * sum(WIDTHS) * (1 + 8 + 4)
    collective_assert(comm, comm.bytes_sent - before == sent, f"{comm.bytes_sent - before}: not {sent}")
    near.free()


def check_neighbourhood_refuses(comm):
    n, me = comm.size, comm.rank
    for wrong in ([me], [n], [-1], [1, 0], [0, 0]):
        collective_assert(comm, raises(ValueError, comm.neighbourhood, [], wrong), f"targets {wrong}")
        collective_assert(comm, raises(ValueError, comm.neighbourhood, wrong, []), f"sources {wrong}")
    near, row = comm.neighbourhood([], []), np.zeros(3)
    for send, receive in (
        (row, np.zeros((1, 3))),
        (row, np.zeros((0, 4))),
        (row.reshape(1, 3), np.zeros((0, 3))),
    ):
        call = near.allgather if send.ndim == 1 else near.alltoall
        collective_assert(comm, raises(ValueError, call, send, receive), f"{send.shape}, {receive.shape}")
    near.free()


def check_exchange_refuses(comm):
    n, me, one = comm.size, comm.rank, np.zeros(4, np.uint8)
    wrong = [([(one, me)], []), ([], [(one, n)]), ([], [(one, -1)])]
    if n > 1:
        other = (me + 1) % n
        wrong += [([(one, other), (one, other)], []), ([], [(one[::2], other)])]
    for sends, receives in wrong:
        collective_assert(comm, raises(ValueError, comm.exchange, sends, receives), f"{sends}, {receives}")


def raises(kind, call, *given):
    """Tell whether a call is refused before any byte moves."""
    try:
        call(*given)
    except kind:
        return True
    return False


def _exchange(comm, dtype, width):
    n, me = comm.size, comm.rank
    send = rows_sent(me, n, width, dtype)
    kept, receive = send.copy(), np.zeros_like(send)
    comm.alltoall(send, receive)
    want = np.stack([rows_sent(i, n, width, dtype)[me] for i in range(n)])
    collective_assert(comm, np.array_equal(receive, want), f"{dtype}, width {width}: {receive}")
    collective_assert(comm, np.array_equal(send, kept), f"{dtype}, width {width}: input was written")


def _gather(comm, dtype, counts):
    me = comm.rank
    send = place_of(me, counts[me], dtype)
    kept, receive = send.copy(), np.zeros(sum(counts), dtype)
    comm.allgather(send, receive, counts)
    want = np.concatenate([place_of(i, c, dtype) for i, c in enumerate(counts)])
    collective_assert(comm, np.array_equal(receive, want), f"{dtype}, counts {counts}: {receive}")
    collective_assert(comm, np.array_equal(send, kept), f"{dtype}, counts {counts}: input was written")


def _ragged(n):
    yield [4] * n
    yield [3 * ((i + 1) % 3) for i in range(n)]
    yield [0] * n
    yield [0] * (n - 1) + [11]


def checks_in(names):
    """The checks of a module."""
    return [value for name, value in sorted(names.items()) if name.startswith("check_")]


CHECKS = checks_in(globals())
