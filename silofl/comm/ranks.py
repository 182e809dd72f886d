"""From the first rank to the last: `run_on_ranks` starts MPI, calls a function on every rank, and ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NoReturn

from silofl.comm import mpi_library
from silofl.comm.mpi import MpiCommunicator
from silofl.comm.protocol import Communicator, RankFailedError
from silofl.comm.shutdown import (
    BARRIER_FAILED_TIMEOUT_S,
    PRINT_GRACE_S,
    Shutdown,
    install_abort_hook,
    sentence_of,
    stagger,
)
from silofl.console import log
from silofl.errors import EXIT_RESUMABLE, AskedError, SiloflError
from silofl.launcher import watchdog
from silofl.launcher.environment import detect
from silofl.launcher.exit_status import write_exit_status, write_mpi_ready

Main = Callable[[MpiCommunicator, Shutdown], None]


def world() -> MpiCommunicator:
    """Return a communicator of all ranks; initialises MPI the first time. Collective.

    Raises MissingDependencyError without an MPI library, MismatchError if it is not the launcher's.
    """
    return MpiCommunicator()


def communicator_of(comm: Any) -> Communicator:
    """A communicator of its own over the ranks of an mpi4py communicator, or of one of ours. Collective."""
    return MpiCommunicator(comm) if hasattr(comm, "Get_rank") else comm.duplicate()


def run_on_ranks(main: Main) -> int:
    """Call `main(comm, shutdown)` on every rank; return the exit code for `sys.exit`.

    An error that all ranks raised together is printed by the rank that it arose on. One that a rank raises
    alone ends all ranks with its exit code, and so does a SystemExit of one rank alone. `main` may set
    `shutdown.trace_dir` once it knows where tracebacks belong.
    """
    try:
        comm = world()
        shutdown = install_abort_hook(comm)
    except SiloflError as error:
        return _report_without_ranks(error)
    except RankFailedError:
        _end_without_the_lost(mpi_library.load().COMM_WORLD.rank, mpi_library.abort)
    watchdog.mpi_ready()
    if comm.rank == 0:
        write_mpi_ready()
    try:
        main(comm, shutdown)
    except SiloflError as error:
        if error.rank is None:
            shutdown.on_exception(type(error), error, error.__traceback__)  # the others may not know of it
        left = shutdown.comm  # fewer than all where ranks were lost
        if error.rank == left.rank:
            log(sentence_of(error, left.members[left.rank]) if left.size > 1 else str(error))
        asked = isinstance(error, AskedError)
        if asked and left.rank == 0:
            write_exit_status(error.exit_code, asked=True)  # first: who is late ends everybody
        shutdown.final_barrier(BARRIER_FAILED_TIMEOUT_S, exit_code=error.exit_code)
        shutdown.finalize(error.exit_code, asked=asked)
        return error.exit_code
    except RankFailedError:
        _end_without_the_lost(comm.rank, comm.abort)
    except SystemExit as stop:
        if stop.code:
            shutdown.final_barrier(
                BARRIER_FAILED_TIMEOUT_S, exit_code=stop.code if isinstance(stop.code, int) else 1
            )
        raise
    shutdown.final_barrier()  # first: until all have met, one may still fail
    if shutdown.comm.rank == 0:
        write_exit_status(0, asked=False)
    shutdown.finalize(0)
    return 0


def _end_without_the_lost(rank: int, abort: Callable[[int], NoReturn]) -> NoReturn:
    """End those who are left, where there is no round that they could complete."""
    stagger(rank)
    log("a silo was lost before the first round or after the last: start the same command again")
    abort(EXIT_RESUMABLE)


def _report_without_ranks(error: SiloflError) -> int:
    """Print an error that every rank meets before MPI is there, on the launcher's first rank alone."""
    if not detect(os.environ).rank:
        log(str(error))
    else:
        time.sleep(PRINT_GRACE_S)  # a launcher may kill the others as soon as one has ended
    return error.exit_code
