"""`run_on_ranks`: initialise MPI, call a function on every rank, and shut down."""

from __future__ import annotations

import logging
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
    message_of,
    stagger,
)
from silofl.console import log
from silofl.errors import EXIT_RESUMABLE, LeftOutError, SiloflError, StopRequestedError
from silofl.launcher import watchdog
from silofl.launcher.detection import first_of_its_start
from silofl.launcher.exit_status import write_exit_status, write_mpi_ready

Main = Callable[[MpiCommunicator, Shutdown], None]


def world() -> MpiCommunicator:
    """Return a communicator of all ranks; initialises MPI the first time. Collective.

    Raises MissingDependencyError without an MPI library, MismatchError if it is not the launcher's.
    """
    return MpiCommunicator()


def communicator_of(comm: Any) -> Communicator:
    """Duplicate an mpi4py communicator or a `Communicator` as a `Communicator`. Collective."""
    return MpiCommunicator(comm) if hasattr(comm, "Get_rank") else comm.duplicate()


def run_on_ranks(main: Main) -> int:
    """Call `main(comm, shutdown)` on every rank; return the exit code for `sys.exit`.

    An error that all ranks raise together is printed by the rank on which it arose. An error or SystemExit of
    one rank only ends all ranks with its exit code. `main` may set `shutdown.trace_dir` once it knows where
    tracebacks belong.
    """
    try:
        comm = world()
        shutdown = install_abort_hook(comm)
    except SiloflError as error:
        return _report_without_ranks(error)
    except RankFailedError:
        _abort_after_failure(mpi_library.load().COMM_WORLD.rank, mpi_library.abort)
    watchdog.mpi_ready()
    if comm.rank == 0:
        write_mpi_ready()
    try:
        main(comm, shutdown)
    except LeftOutError:
        shutdown.stay_left_out()
    except SiloflError as error:
        if error.rank is None:
            shutdown.on_exception(type(error), error, error.__traceback__)  # other ranks may not know of it
        survivors = shutdown.comm
        if error.rank == survivors.rank:
            silo_id = survivors.members[survivors.rank]
            log(message_of(error, silo_id) if survivors.size > 1 else str(error), logging.ERROR)
        stop_requested = isinstance(error, StopRequestedError)
        if stop_requested and survivors.rank == 0:
            write_exit_status(error.exit_code, stop_requested=True)  # before a late rank can abort the job
        shutdown.final_barrier(BARRIER_FAILED_TIMEOUT_S, exit_code=error.exit_code)
        shutdown.finalize(error.exit_code, stop_requested=stop_requested)
        return error.exit_code
    except RankFailedError:
        _abort_after_failure(comm.rank, comm.abort)
    except SystemExit as stop:
        if stop.code:
            shutdown.final_barrier(
                BARRIER_FAILED_TIMEOUT_S, exit_code=stop.code if isinstance(stop.code, int) else 1
            )
        raise
    shutdown.final_barrier()  # before the status: until then a rank may still fail
    if shutdown.comm.rank == 0:
        write_exit_status(0, stop_requested=False)
    shutdown.finalize(0)
    return 0


def _abort_after_failure(rank: int, abort: Callable[[int], NoReturn]) -> NoReturn:
    """End the surviving ranks, where there is no round that they could complete."""
    stagger(rank)
    log("a silo failed before the first round or after the last: start the same command again")
    abort(EXIT_RESUMABLE)


def _report_without_ranks(error: SiloflError) -> int:
    """Print, on the launcher's first rank only, an error that every rank raises before MPI works."""
    if first_of_its_start(os.environ):
        log(str(error))
    else:
        time.sleep(PRINT_GRACE_S)  # a launcher may kill all ranks as soon as one has ended
    return error.exit_code
