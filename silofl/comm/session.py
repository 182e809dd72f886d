"""From the first rank to the last: `run_on_ranks` starts MPI, calls a function on every rank, and ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NoReturn

from silofl.comm import binding, watchdog
from silofl.comm.ending import (
    LEAVE_FAILED_TIMEOUT_S,
    PRINT_GRACE_S,
    Ending,
    install_abort_hook,
    say,
    sentence_of,
    take_turn,
)
from silofl.comm.launcher import detect
from silofl.comm.lost import RanksLost
from silofl.comm.mpi import MpiCommunicator
from silofl.comm.outcome import leave_note, leave_word_of_meeting
from silofl.comm.protocol import Communicator
from silofl.errors import EXIT_RESUMABLE, AskedError, SiloflError

Main = Callable[[MpiCommunicator, Ending], None]


def world() -> MpiCommunicator:
    """Return a communicator of all ranks; initialises MPI the first time. Collective.

    Raises MissingDependencyError without an MPI library, MismatchError if it is not the launcher's.
    """
    return MpiCommunicator()


def communicator_of(comm: Any) -> Communicator:
    """A communicator of its own over the ranks of an mpi4py communicator, or of one of ours. Collective."""
    return MpiCommunicator(comm) if hasattr(comm, "Get_rank") else comm.duplicate()


def run_on_ranks(main: Main) -> int:
    """Call `main(comm, ending)` on every rank; return the exit code for `sys.exit`.

    An error that all ranks raised together is printed by the rank that it arose on. One that a rank raises
    alone ends all ranks with its exit code, and so does a SystemExit of one rank alone. `main` may set
    `ending.trace_dir` once it knows where tracebacks belong.
    """
    try:
        comm = world()
        ending = install_abort_hook(comm)
    except SiloflError as error:
        return _report_without_ranks(error)
    except RanksLost:
        _end_without_the_lost(binding.load().COMM_WORLD.rank, binding.abort)
    watchdog.met()
    if comm.rank == 0:
        leave_word_of_meeting()
    try:
        main(comm, ending)
    except SiloflError as error:
        if error.rank is None:
            ending.on_exception(type(error), error, error.__traceback__)  # the others may not know of it
        left = ending.comm  # fewer than all where ranks were lost
        if error.rank == left.rank:
            say(sentence_of(error, left.members[left.rank]) if left.size > 1 else str(error))
        asked = isinstance(error, AskedError)
        if asked and left.rank == 0:
            leave_note(error.exit_code, asked=True)  # first: who is late ends everybody
        ending.leave(LEAVE_FAILED_TIMEOUT_S, exit_code=error.exit_code)
        ending.end(error.exit_code, asked=asked)
        return error.exit_code
    except RanksLost:
        _end_without_the_lost(comm.rank, comm.abort)
    except SystemExit as stop:
        if stop.code:
            ending.leave(LEAVE_FAILED_TIMEOUT_S, exit_code=stop.code if isinstance(stop.code, int) else 1)
        raise
    ending.leave()  # first: until all have met, one may still fail
    if ending.comm.rank == 0:
        leave_note(0, asked=False)
    ending.end(0)
    return 0


def _end_without_the_lost(rank: int, abort: Callable[[int], NoReturn]) -> NoReturn:
    """End those who are left, where there is no round that they could complete."""
    take_turn(rank)
    say("a silo was lost before the first round or after the last: start the same command again")
    abort(EXIT_RESUMABLE)


def _report_without_ranks(error: SiloflError) -> int:
    """Print an error that every rank meets before MPI is there, on the launcher's first rank alone."""
    if not detect(os.environ).rank:
        say(str(error))
    else:
        time.sleep(PRINT_GRACE_S)  # a launcher may kill the others as soon as one has ended
    return error.exit_code
