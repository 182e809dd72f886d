"""What a rank does in tests of how ranks end: `python rank_program.py MODE`, under an mpirun."""

import os
import sys
import threading
import time
from pathlib import Path

from silofl.launcher.environment import prepare_environment

if "unprepared" not in sys.argv:
    prepare_environment()

import numpy as np

from silofl.comm import raise_on_all_ranks, run_on_ranks
from silofl.comm.mpi import MpiCommunicator
from silofl.errors import DataError


def main(comm, shutdown):
    MODES[sys.argv[1]](comm, shutdown)
    comm.barrier()
    comm.barrier()


def print_line(text):
    """One line in one write: launchers merge the output of ranks."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def fine(comm, shutdown):
    print_line(f"rank {comm.rank} of {comm.size} is fine")


def raises(comm, shutdown):
    if comm.rank == 1:
        raise KeyError("silo")


def raises_together(comm, shutdown):
    with raise_on_all_ranks(comm):
        raises(comm, shutdown)


def raises_into_a_file(comm, shutdown):
    shutdown.trace_dir = Path.cwd()
    raises(comm, shutdown)


def explains_alone(comm, shutdown):
    if comm.rank == 1:
        raise DataError("silo 1 has no samples: give it some")


def explains_together(comm, shutdown):
    with raise_on_all_ranks(comm):
        if comm.rank >= 1:
            raise DataError(f"silo {comm.rank} has no samples: give it some")


def fail():
    [].pop()


def raises_in_a_thread(comm, shutdown):
    if comm.rank == 1:
        threading.Thread(target=fail).start()


def all_exit(comm, shutdown):
    sys.exit(3)


def one_exits(comm, shutdown):
    if comm.rank == 1:
        sys.exit(3)


def one_never_leaves(comm, shutdown):
    if comm.rank == 1:
        time.sleep(60)
    else:
        shutdown.final_barrier(0.5, exit_code=7)


def one_dies(comm, shutdown):
    if comm.rank == 1:
        os.kill(os.getpid(), 9)


def many_small_steps(comm, shutdown):
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    print_line("threads " + " ".join(os.environ[name] for name in names))
    values, steps = np.ones(256, np.float32), 200
    comm.barrier()
    begun = time.perf_counter()
    for _ in range(steps):
        comm.allreduce(values)
    if comm.rank == 0:
        print_line(f"milliseconds {(time.perf_counter() - begun) / steps * 1e3}")


def burn(seconds):
    """Take processor time; return the seconds that it took."""
    begun, until = time.perf_counter(), time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(1000))
    return time.perf_counter() - begun


def one_computes(comm, shutdown):
    """How much slower each rank in turn computes while the others wait in a barrier than while they sleep."""
    alone = together = 0.0
    for turn in range(8):
        if comm.rank == turn % comm.size:
            alone += burn(0.25)
        time.sleep(0.01 if comm.rank == turn % comm.size else 1.0)
        comm.barrier()
        begun = time.perf_counter()
        if comm.rank == turn % comm.size:
            burn(0.25)
        comm.barrier()
        together += time.perf_counter() - begun
    alone = float(comm.allreduce(np.array([alone]))[0])
    if comm.rank == 0:
        print_line(f"times {together / alone}")


def beyond_two_gib(comm, shutdown):
    """Rows and places longer than 2^31 bytes, at 9 GiB for two ranks: only marks are written and read."""
    n, me, width = comm.size, comm.rank, (1 << 31) + 4097
    marks = [0, 4096, (1 << 30) - 1, 1 << 30, (1 << 31) - 1, 1 << 31, width - 1]
    send, receive = np.zeros((n, width), np.uint8), np.zeros((n, width), np.uint8)
    ways = {backoff: MpiCommunicator(backoff=backoff) for backoff in (False, True)}
    for backoff, own in ways.items():
        for j in range(n):
            send[j, marks] = np.arange(len(marks)) + 20 * me + 7 * j + 1 + backoff
        receive[:, marks] = 0
        own.alltoall(send, receive)
        for i in range(n):
            want = np.arange(len(marks)) + 20 * i + 7 * me + 1 + backoff
            assert np.array_equal(receive[i, marks], want), (backoff, i, receive[i, marks], want)
            assert np.count_nonzero(receive[i]) == len(marks)
    flat, counts = receive.reshape(-1)[: width + 5 * (n - 1)], [width] + [5] * (n - 1)
    for backoff, own in ways.items():
        flat[:] = 0
        start = sum(counts[:me])
        flat[start] = flat[start + counts[me] - 1] = 50 + me
        own.allgather(flat[start : start + counts[me]], flat, counts)
        ends = [end for i in range(n) for end in (sum(counts[:i]), sum(counts[: i + 1]) - 1)]
        assert flat[ends].tolist() == [50 + i for i in range(n) for _ in range(2)], (backoff, flat[ends])
        assert np.count_nonzero(flat) == 2 * n
    print_line("moved")


MODES = {name: value for name, value in globals().items() if callable(value)}

if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
