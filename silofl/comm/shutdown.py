"""Clean shutdown: an excepthook that aborts all ranks, and a bounded barrier before MPI_Finalize."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from silofl.comm import mpi_library
from silofl.comm.collective_errors import describe
from silofl.comm.mpi import MpiCommunicator
from silofl.console import log
from silofl.errors import LeftOutError, SiloflError
from silofl.launcher.exit_status import write_exit_status

PRINT_GRACE_S = 1.0
"""Time that the rank on which an error arose has to print it, before another rank ends all."""
STAGGER_S, MAX_STAGGER_S = 1.0, 5.0
"""How much later a rank reports what every rank may report, and the longest that one waits for it."""
BARRIER_TIMEOUT_S = 60.0
"""Time limit for the last barrier of a run that went well: others may still write their results."""
BARRIER_FAILED_TIMEOUT_S = 3.0
"""Time limit for the last barrier after an error that all ranks raised together."""
FINALIZE_TIMEOUT_S = 2.0
"""Time limit for MPI_Finalize in a process whose peers may have failed: it has none of its own."""
LEAVE_TIMEOUT_S = 5.0
"""Time limit for the launcher's answer to a process that ends without MPI_Finalize."""


class Shutdown:
    """Shutdown of the ranks of `comm`. Collective to make: it has a communicator of its own.

    Attributes:
        trace_dir: where a failing rank writes its traceback; None: to standard error.
    """

    def __init__(self, comm: MpiCommunicator) -> None:
        self.trace_dir: Path | None = None
        self._comm = comm.duplicate()
        self._barrier_done = False
        comm.on_replace(self._replace)

    @property
    def comm(self) -> MpiCommunicator:
        """A communicator of the current ranks."""
        return self._comm

    def _replace(self, comm: MpiCommunicator) -> None:
        self._comm = comm.duplicate()

    def finalize(self, exit_code: int, *, stop_requested: bool = False) -> None:
        """Wait in `final_barrier`; where ranks have failed or rejoined, end this process here.

        MPI_Finalize may then wait for failed ranks, so it gets a time limit; without MPI_Finalize Open MPI
        takes the end of a respawned process for a failure. A respawned process that never joined has the same
        ranks to wait for, but does not write the job's exit status. `stop_requested` goes into that status.
        """
        self.final_barrier(exit_code=exit_code)
        if self._comm.parting is not None:
            self._comm.parting.tell_end()
        if self._comm.rank == 0 and self._comm.membership_changed:
            write_exit_status(exit_code, stop_requested=stop_requested)
        if self._comm.membership_changed or mpi_library.is_respawned():
            sys.stdout.flush()
            sys.stderr.flush()
            finalize_or(partial(os._exit, exit_code), self._comm)
            os._exit(exit_code)

    def stay_left_out(self) -> NoReturn:
        """End this process, which the others have left out, when they have ended."""
        assert self._comm.parting is not None, "nobody was left out"
        self._comm.parting.wait()
        sys.stdout.flush()
        sys.stderr.flush()
        finalize_or(partial(os._exit, 0), self._comm)
        os._exit(0)

    def final_barrier(self, timeout_s: float = BARRIER_TIMEOUT_S, *, exit_code: int = 1) -> None:
        """Wait for every rank; end all with `exit_code` if some have not called after `timeout_s` seconds.

        Without it MPI_Finalize would wait for ever for a rank that hangs or is still busy.
        """
        if self._barrier_done:
            return
        self._barrier_done = True
        if not self._comm.final_barrier(timeout_s):
            rank = self._comm.rank
            log(f"rank {rank} has ended but others have not after {timeout_s:g} s: ending all ranks")
            self._comm.abort(exit_code)

    def on_exception(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> NoReturn:
        """Report the exception on one line and end every rank: `sys.excepthook`."""
        rank = self._comm.rank
        if isinstance(error, LeftOutError):
            self.stay_left_out()
        if isinstance(error, SiloflError):
            if error.rank is None:
                stagger(rank)  # every rank may raise the same
            if error.rank in {None, rank}:
                log(message_of(error, rank), logging.ERROR)
            else:
                time.sleep(PRINT_GRACE_S)  # the rank on which it arose prints it first
            self._comm.abort(error.exit_code)
        text = "".join(traceback.format_exception(kind, error, trace))
        where = write_trace(text, rank, self.trace_dir)
        log(f"rank {rank} of {self._comm.size} failed: {describe(error)}; {where}", logging.ERROR)
        self._comm.abort(130 if isinstance(error, KeyboardInterrupt) else 1)

    def on_thread_exception(self, arguments: threading.ExceptHookArgs) -> None:
        """Handle an exception of any thread like one of the main thread: `threading.excepthook`."""
        error = arguments.exc_value
        if error is not None and not isinstance(error, SystemExit):
            self.on_exception(arguments.exc_type, error, arguments.exc_traceback)


def finalize_or(end: Callable[[], None], comm: MpiCommunicator) -> None:
    """MPI_Finalize; where it still waits after `FINALIZE_TIMEOUT_S`, for peers that failed, call `end`.

    Before that the launcher is told that this process ends, for which it has `LEAVE_TIMEOUT_S`.
    """

    def give_up() -> None:
        leaving = _later(0, comm.leave_launcher)
        leaving.join(LEAVE_TIMEOUT_S)
        end()

    _later(FINALIZE_TIMEOUT_S, give_up)
    comm.finalize()


def _later(seconds: float, function: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, function)
    timer.daemon = True
    timer.start()
    return timer


def install_abort_hook(comm: MpiCommunicator) -> Shutdown:
    """Install hooks that end all ranks when an exception escapes on one, in any thread. Collective.

    The failing rank reports it on one line and writes the traceback to the `trace_dir` of the returned
    `Shutdown`, which also finalizes MPI at a normal exit.
    """
    shutdown = Shutdown(comm)
    sys.excepthook = shutdown.on_exception
    threading.excepthook = shutdown.on_thread_exception
    atexit.register(shutdown.finalize, 0)
    return shutdown


def write_trace(text: str, rank: int, folder: Path | None) -> str:
    """Write a traceback to `folder`, or to standard error; return a phrase that says where it is."""
    if folder is not None:
        path = folder / f"traceback-rank-{rank:04d}.txt"
        try:
            path.write_text(text, encoding="utf-8")
        except OSError:
            pass
        else:
            return f"traceback in {path}"
    print(text, file=sys.stderr, end="", flush=True)
    return "traceback above"


def message_of(error: SiloflError, rank: int) -> str:
    """Return an error's message, naming the rank unless the message itself begins with it."""
    return str(error) if str(error).startswith(f"rank {rank} ") else f"rank {rank}: {error}"


def stagger(rank: int) -> None:
    """Sleep for a time that grows with the rank, so that one rank reports an error and ends all others."""
    time.sleep(min(rank * STAGGER_S, MAX_STAGGER_S))
