"""`MpiCommunicator` under mpirun: `mpirun -n N python -m pytest --only-mpi tests/comm`."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from silofl.comm.mpi import MpiCommunicator
from tests.comm.comm_body import (
    CHECKS,
    check_alltoall_bytes,
    check_shared_buffer,
    collective_assert,
    raises,
    rows_sent,
)
from tests.comm.counting_body import COUNTING_CHECKS

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(60)]


def self_world():
    from mpi4py import MPI

    return MpiCommunicator(MPI.COMM_SELF)


def on_hosts(comm):
    """As if two ranks each had a host, and the last one where their number is odd."""
    comm._node = replace(comm._node, whole=False)
    comm._split_by_host = lambda: comm.handle.Split(comm.rank // 2)
    return comm


VARIANTS = {
    "world": MpiCommunicator,
    "self": self_world,
    "duplicate": lambda: MpiCommunicator().duplicate(),
    "chunks": lambda: MpiCommunicator(chunk_bytes=501),  # cuts inside elements; long rows in many chunks
    "hosts": lambda: on_hosts(MpiCommunicator()),
    "backoff": lambda: MpiCommunicator(backoff=True),
    "spinning": lambda: MpiCommunicator(backoff=False),
}


@functools.cache
def communicator(variant):
    return VARIANTS[variant]()


@pytest.mark.parametrize("check", [*CHECKS, *COUNTING_CHECKS], ids=lambda check: check.__name__)
@pytest.mark.parametrize("variant", VARIANTS)
def test_body(check, variant, monkeypatch):
    comm = communicator(variant)
    if variant == "self" and check.__name__ == "check_rank_and_size":
        assert (comm.rank, comm.size) == (0, 1)
        return
    if variant == "hosts" and check.__name__ in ("check_shared_buffer", "check_bytes_sent"):
        collective_assert(comm, comm.shared_buffer(8) is None, "memory of ranks on several hosts")
        return
    monkeypatch.setattr("silofl.comm.mpi.FAR_BYTES", 1)
    check(comm)


def test_ranks_are_found_by_host():
    comm = communicator("hosts")
    hosts, n = comm.hosts(), comm.size
    pairs = tuple(tuple(range(first, min(first + 2, n))) for first in range(0, n, 2))
    collective_assert(comm, comm.host_groups() == pairs, f"{comm.host_groups()}")
    if n < 3:
        collective_assert(comm, hosts is None, "nothing to gain where each host has one rank, or one all")
        return
    first = comm.rank // 2 * 2
    right = hosts.here == tuple(range(first, min(first + 2, n)))
    collective_assert(comm, right, f"{hosts.groups}")
    collective_assert(comm, hosts.own.members == hosts.here, f"{hosts.own.members}")
    collective_assert(comm, comm.hosts() is hosts, "found once")
    check_shared_buffer(hosts.own)


def test_some_silos_go_on_alone():
    """The last one is left out, and hears when the others have ended."""
    comm = MpiCommunicator()
    left = tuple(range(max(1, comm.size - 1)))
    part = comm.part(left)
    if part is None:
        comm.parting.wait()
        return
    collective_assert(part, part.members == left, f"{part.members}")
    collective_assert(part, part.membership_changed, "as after a failure")
    told = part.allgather_bytes(bytes([comm.rank]))
    collective_assert(part, told == [bytes([rank]) for rank in left], f"{told}")
    part.duplicate().parting.tell_end()


def test_shared_memory_that_one_rank_cannot_allocate_is_none_everywhere(monkeypatch):
    comm = communicator("world")
    if comm.rank == comm.size - 1:

        def refuse(*arguments):
            raise OSError("no anonymous files here")

        monkeypatch.setattr("silofl.comm.shared_memory.os.memfd_create", refuse)
    collective_assert(comm, comm.shared_buffer(10) is None, "shared memory of some ranks only")
    monkeypatch.undo()
    check_shared_buffer(comm)


def test_chunks_of_one_byte():
    comm = MpiCommunicator(chunk_bytes=1)
    send = rows_sent(comm.rank, comm.size, 3, "uint32")
    receive, gathered = np.zeros_like(send), np.zeros(3 * comm.size, np.uint16)
    comm.alltoall(send, receive)
    want = np.stack([rows_sent(i, comm.size, 3, "uint32")[comm.rank] for i in range(comm.size)])
    collective_assert(communicator("world"), np.array_equal(receive, want), f"{receive}")
    comm.allgather(np.arange(3, dtype=np.uint16) + comm.rank, gathered, [3] * comm.size)
    want = np.concatenate([np.arange(3) + i for i in range(comm.size)])
    collective_assert(communicator("world"), np.array_equal(gathered, want), f"{gathered}")
    check_alltoall_bytes(comm)
    comm.free()


def test_chunk_bytes_beyond_an_int_are_refused():
    comm = communicator("world")
    for wrong in (0, -1, 1 << 31):
        collective_assert(
            comm, raises(ValueError, lambda p=wrong: MpiCommunicator(chunk_bytes=p)), f"{wrong}"
        )


def test_messages_do_not_match_those_of_the_world():
    from mpi4py import MPI

    comm, world = communicator("world"), MPI.COMM_WORLD
    mine, total = np.full(1, comm.rank), np.zeros(1, np.int64)
    # Ranks call the two communicators in different orders.
    pending = world.Iallreduce(mine, total) if comm.rank % 2 else None
    texts = comm.allgather_bytes(b"%d" % comm.rank)
    (pending or world.Iallreduce(mine, total)).Wait()
    collective_assert(
        comm, total[0] == sum(range(comm.size)) and len(texts) == comm.size, "messages were mixed up"
    )


def test_local_rank_is_the_launchers(monkeypatch):
    comm = communicator("world")
    for names in (("OMPI_COMM_WORLD", "_LOCAL_RANK"), ("MPI_LOCALRANKID", "")):
        monkeypatch.delenv("".join(names), raising=False)
    split = MpiCommunicator()
    collective_assert(comm, split.local_rank == split.rank, "a shared-memory split numbers ranks by rank")
    collective_assert(comm, split.local_size == comm.local_size, "both count the ranks of this node")
