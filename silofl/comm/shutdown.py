"""An end that no rank hangs in: one hook for what escapes, one last meeting for those who leave."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from silofl.comm import mpi_library
from silofl.comm.collective_errors import describe
from silofl.comm.mpi import MpiCommunicator
from silofl.console import log
from silofl.errors import SiloflError
from silofl.launcher.exit_status import write_exit_status

PRINT_GRACE_S = 1.0
TURN_S, MOST_TURNS = 1.0, 5
BARRIER_TIMEOUT_S = 60.0
FINALIZE_TIMEOUT_S = 2.0
BARRIER_FAILED_TIMEOUT_S = 3.0


class Shutdown:
    """How the ranks of `comm` end. Collective to make: it has a communicator of its own.

    `trace_dir` is where a failing rank writes its traceback; None: to standard error.
    """

    def __init__(self, comm: MpiCommunicator) -> None:
        self.trace_dir: Path | None = None
        self._comm = comm.duplicate()
        self._left = False
        comm.on_replace(self._replace)

    @property
    def comm(self) -> MpiCommunicator:
        """A communicator of the ranks that there are now."""
        return self._comm

    def _replace(self, comm: MpiCommunicator) -> None:
        self._comm = comm.duplicate()

    def finalize(self, exit_code: int, *, asked: bool = False) -> None:
        """Meet every rank a last time. Where ranks were lost or came back, end this process here.

        MPI_Finalize may then wait for the lost ones, so it is given a moment only; without it, Open MPI takes
        the end of a process that was started again for a failure. One that was started again and never joined
        has the same lost ones to wait for, but no say in how the job ends. `asked`: somebody wanted it.
        """
        self.final_barrier(exit_code=exit_code)
        if self._comm.rank == 0 and self._comm.membership_changed:
            write_exit_status(exit_code, asked=asked)
        if self._comm.membership_changed or mpi_library.is_respawned():
            sys.stdout.flush()
            sys.stderr.flush()
            impatience = threading.Timer(FINALIZE_TIMEOUT_S, os._exit, (exit_code,))
            impatience.daemon = True
            impatience.start()
            self._comm.finalize()
            os._exit(exit_code)

    def final_barrier(self, timeout_s: float = BARRIER_TIMEOUT_S, *, exit_code: int = 1) -> None:
        """Meet every rank a last time; end those that have not come after `timeout_s` with `exit_code`.

        Without it MPI_Finalize would wait for ever for a rank that is stuck or still at work.
        """
        if self._left:
            return
        self._left = True
        if not self._comm.final_barrier(timeout_s):
            rank = self._comm.rank
            log(f"rank {rank} has ended but others have not after {timeout_s:g} s: ending all ranks")
            self._comm.abort(exit_code)

    def on_exception(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> NoReturn:
        """Say on one line what happened and end every rank: `sys.excepthook`."""
        rank = self._comm.rank
        if isinstance(error, SiloflError):
            if error.rank is None:
                stagger(rank)  # all may have found the same
            if error.rank in {None, rank}:
                log(sentence_of(error, rank))
            else:
                time.sleep(PRINT_GRACE_S)  # the rank on which it arose prints it first
            self._comm.abort(error.exit_code)
        text = "".join(traceback.format_exception(kind, error, trace))
        where = write_trace(text, rank, self.trace_dir)
        log(f"rank {rank} of {self._comm.size} failed: {describe(error)}; {where}")
        self._comm.abort(130 if isinstance(error, KeyboardInterrupt) else 1)

    def on_thread_exception(self, arguments: threading.ExceptHookArgs) -> None:
        """Treat an exception of any thread as the process's own: `threading.excepthook`."""
        error = arguments.exc_value
        if error is not None and not isinstance(error, SystemExit):
            self.on_exception(arguments.exc_type, error, arguments.exc_traceback)


def install_abort_hook(comm: MpiCommunicator) -> Shutdown:
    """End all ranks when an exception escapes on one, in any thread; leave together otherwise. Collective.

    The failing rank says what happened on one line and writes the traceback where the `trace_dir` of what is
    returned says.
    """
    shutdown = Shutdown(comm)
    sys.excepthook = shutdown.on_exception
    threading.excepthook = shutdown.on_thread_exception
    atexit.register(shutdown.finalize, 0)
    return shutdown


def write_trace(text: str, rank: int, folder: Path | None) -> str:
    """Write a traceback to `folder`, or to standard error; return words that say where it is."""
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


def sentence_of(error: SiloflError, rank: int) -> str:
    """Return an error's message, naming the rank unless the message itself begins with it."""
    return str(error) if str(error).startswith(f"rank {rank} ") else f"rank {rank}: {error}"


def stagger(rank: int) -> None:
    """Wait for the ranks before this one, of whom the first to speak ends all."""
    time.sleep(min(rank, MOST_TURNS) * TURN_S)
