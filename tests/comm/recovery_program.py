"""What a rank does in tests of recovery: `python recovery_program.py MODE`, under `mpirun --with-ft ulfm`."""

# ruff: noqa: E402 - the environment comes before NumPy and MPI are loaded
import os
import signal
import sys
import threading
import time
from functools import partial

from silofl.launcher.environment import prepare_environment

prepare_environment()

import numpy as np

from silofl.comm import mpi_library, run_on_ranks
from silofl.comm import shutdown as comm_shutdown
from silofl.comm.collective_errors import allgather_object
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import RankFailedError
from silofl.comm.respawn import Place, join, respawn, spawned_by
from silofl.errors import MismatchError


def print_line(text):
    """One line in one write: launchers merge the output of ranks."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def die(group, *numbers):
    if group.silo_id in numbers:
        os.kill(os.getpid(), signal.SIGKILL)


def total(group):
    """A step of several collectives, with memory that ranks share."""
    comm = group.comm
    shared = comm.shared_buffer(1000 * (group.silo_id + 1))
    shared.segments[comm.rank][:] = group.silo_id
    shared.sync()
    numbers = [int(segment[0]) for segment in shared.segments]
    assert numbers == list(comm.members)
    gathered = [int(text) for text in comm.allgather_bytes(str(group.silo_id).encode())]
    swapped = [int(text) for text in comm.alltoall_bytes([str(group.silo_id).encode()] * comm.size)]
    assert gathered == swapped == numbers
    return int(comm.allreduce(np.array([group.silo_id], np.int64))[0])


def one_after_another(comm, shutdown):
    """Ranks fail before, within and after a step, rank 0 too; the survivors agree on every sum."""
    group = ElasticGroup(comm)
    sums = []
    for step in range(30):

        def work(step=step):
            if step == 5:
                die(group, 2)
            value = total(group)
            if step == 10:
                die(group, 0)
            return value

        sums.append(group.step(work))
        if step == 20:
            die(group, 1)
    failures = [failure.silos for failure in group.failures]
    print_line(f"rank {group.silo_id} {sorted(set(sums), reverse=True)} {failures}")


def two_at_once(comm, shutdown):
    group = ElasticGroup(comm)

    def work():
        value = total(group)
        die(group, 1, 4)
        return value

    print_line(f"rank {group.silo_id} {group.step(work)}")


def a_thread_waits(comm, shutdown):
    """A failure ends a collective of another thread on a duplicate; shared memory stays readable."""
    group, other, ended = ElasticGroup(comm), comm.duplicate(), []
    shared = comm.shared_buffer(8)
    shared.segments[comm.rank][:] = comm.rank + 7
    shared.sync()

    def wait():
        try:
            other.barrier()
        except RankFailedError:
            ended.append(True)

    if comm.rank != 3:
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
    group.step(lambda: die(group, 3))
    thread.join(10)
    print_line(f"rank {group.silo_id} {ended} {[int(segment[0]) for segment in shared.segments]}")


def places_of(comm):
    return [Place.from_json(one) for one in allgather_object(comm, Place.own(comm.local_rank).to_json())]


def judged(comm, numbers, places, timeout_s, refuser=None):
    """Respawn; a claim is the silo's number and the challenge, and one survivor may refuse it."""

    def judge(number, claim):
        assert claim == b"%d asked" % number
        return f"rank {refuser} refuses {number}" if comm.members[comm.rank] == refuser else ""

    return respawn(comm, numbers, places, timeout_s=timeout_s, told={}, challenge=b"asked", judge=judge)


def joined(comm, spawn_info):
    asked = bytes.fromhex(spawn_info.challenge)
    return join(comm, spawn_info, b"%d %s" % (spawn_info.number, asked))


def rejoins(comm, shutdown):
    spawn_info = spawned_by()
    if spawn_info is not None:
        merged = joined(comm, spawn_info)
        group = ElasticGroup(merged)
        group.adopt(merged, 2)
    else:
        group = ElasticGroup(comm)
        places = group.step(lambda: places_of(comm))
        group.step(lambda: die(group, 0, 2))
        merged, refusal = judged(group.comm, (0, 2), places, 30)
        assert refusal == ""
        group.adopt(merged)
    print_line(
        f"rank {group.silo_id} of {group.members} {group.step(lambda: total(group))} {group.completed}"
    )
    return group, spawn_info is not None


def fails_again(comm, shutdown):
    group, rejoined = rejoins(comm, shutdown)
    group.step(lambda: die(group, 2) if rejoined else None)
    print_line(f"rank {group.silo_id} {group.step(lambda: total(group))}")


def rejoins_and_waits_for_ever(comm, shutdown):
    """MPI_Finalize of the rejoined rank waits for peers, as it sometimes does for those that have ended."""
    _, rejoined = rejoins(comm, shutdown)
    mpi_library.finalize = partial(time.sleep, 60 if rejoined else 2)
    comm_shutdown.FINALIZE_TIMEOUT_S = 0.5 if rejoined else 10  # the rejoined one ends while others are there


def does_not_rejoin(comm, shutdown):
    """The respawned process never calls `join`: the survivors go on."""
    spawn_info = spawned_by()
    if spawn_info is not None:
        time.sleep(2)
        return
    group = ElasticGroup(comm)
    places = group.step(lambda: places_of(comm))
    group.step(lambda: die(group, 2))
    merged, refusal = judged(group.comm, (2,), places, 0.5)
    print_line(f"rank {group.silo_id} {merged}{refusal} {group.step(lambda: total(group))}")


def is_refused(comm, shutdown):
    """One survivor does not accept what the respawned process says: it stays away, the survivors go on."""
    spawn_info = spawned_by()
    if spawn_info is not None:
        try:
            joined(comm, spawn_info)
        except MismatchError as error:
            print_line(f"rank {spawn_info.number} hears: {error}")
        os.kill(os.getpid(), signal.SIGKILL)
    group = ElasticGroup(comm)
    places = group.step(lambda: places_of(comm))
    group.step(lambda: die(group, 2))
    merged, refusal = judged(group.comm, (2,), places, 30, refuser=1)
    print_line(f"rank {group.silo_id} {merged} {refusal} {group.step(lambda: total(group))}")


MODES = {
    mode.__name__: mode
    for mode in (
        *(one_after_another, two_at_once, a_thread_waits),
        *(rejoins, rejoins_and_waits_for_ever, fails_again, does_not_rejoin, is_refused),
    )
}

if __name__ == "__main__":
    sys.exit(run_on_ranks(MODES[sys.argv[1]]))
