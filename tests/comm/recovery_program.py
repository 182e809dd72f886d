"""What a rank does in tests of recovery: `python recovery_program.py MODE`, under `mpirun --with-ft ulfm`."""

# ruff: noqa: E402 - the environment comes before NumPy and MPI are loaded
import os
import signal
import socket
import sys
import threading
import time

from silofl.comm.launcher import prepare_environment

prepare_environment()

import numpy as np

from silofl.comm import run_on_ranks
from silofl.comm.crew import Crew
from silofl.comm.lost import RanksLost
from silofl.comm.recall import Place, invitation, join, recall


def tell(text):
    """One line in one write: launchers merge the output of ranks."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def die(crew, *numbers):
    if crew.number in numbers:
        os.kill(os.getpid(), signal.SIGKILL)


def total(crew):
    """A step of several collectives, with memory that ranks share."""
    comm = crew.comm
    shared = comm.shared_buffer(1000 * (crew.number + 1))
    shared.segments[comm.rank][:] = crew.number
    shared.sync()
    numbers = [int(segment[0]) for segment in shared.segments]
    assert numbers == list(comm.members)
    gathered = [int(text) for text in comm.allgather_bytes(str(crew.number).encode())]
    swapped = [int(text) for text in comm.alltoall_bytes([str(crew.number).encode()] * comm.size)]
    assert gathered == swapped == numbers
    return int(comm.allreduce(np.array([crew.number], np.int64))[0])


def one_after_another(comm, ending):
    """Ranks die before, within and after a step, the first one too; the others agree on every sum."""
    crew = Crew(comm)
    sums = []
    for step in range(30):

        def work(step=step):
            if step == 5:
                die(crew, 2)
            value = total(crew)
            if step == 10:
                die(crew, 0)
            return value

        sums.append(crew.step(work))
        if step == 20:
            die(crew, 1)
    tell(f"rank {crew.number} {sorted(set(sums), reverse=True)} {[loss.lost for loss in crew.losses]}")


def two_at_once(comm, ending):
    crew = Crew(comm)

    def work():
        value = total(crew)
        die(crew, 1, 4)
        return value

    tell(f"rank {crew.number} {crew.step(work)}")


def a_thread_waits(comm, ending):
    """A collective of another thread on a duplicate ends, too, and what a lost rank wrote stays readable."""
    crew, other, ended = Crew(comm), comm.duplicate(), []
    shared = comm.shared_buffer(8)
    shared.segments[comm.rank][:] = comm.rank + 7
    shared.sync()

    def wait():
        try:
            other.barrier()
        except RanksLost:
            ended.append(True)

    if comm.rank != 3:
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
    crew.step(lambda: die(crew, 3))
    thread.join(10)
    tell(f"rank {crew.number} {ended} {[int(segment[0]) for segment in shared.segments]}")


def comes_back(comm, ending):
    invited = invitation()
    if invited is not None:
        heir = join(comm, invited)
        crew = Crew(heir)
        crew.replace(heir, 1)
    else:
        crew = Crew(comm)
        crew.step(lambda: die(crew, 0, 2))
        places = [Place(socket.gethostname(), number) for number in range(5)]
        heir = recall(crew.comm, (0, 2), places, timeout_s=30)
        crew.replace(heir)
    tell(f"rank {crew.number} of {crew.members} {crew.step(lambda: total(crew))} {crew.completed}")
    return crew, invited is not None


def dies_again(comm, ending):
    crew, came_back = comes_back(comm, ending)
    crew.step(lambda: die(crew, 2) if came_back else None)
    tell(f"rank {crew.number} {crew.step(lambda: total(crew))}")


def does_not_come(comm, ending):
    """What is started again never calls `join`: the others go on."""
    invited = invitation()
    if invited is not None:
        time.sleep(2)
        return
    crew = Crew(comm)
    crew.step(lambda: die(crew, 2))
    places = [Place(socket.gethostname(), number) for number in range(3)]
    heir = recall(crew.comm, (2,), places, timeout_s=0.5)
    tell(f"rank {crew.number} {heir} {crew.step(lambda: total(crew))}")


MODES = {
    mode.__name__: mode
    for mode in (one_after_another, two_at_once, a_thread_waits, comes_back, dies_again, does_not_come)
}

if __name__ == "__main__":
    sys.exit(run_on_ranks(MODES[sys.argv[1]]))
