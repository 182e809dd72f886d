"""The end of a program in a zygote's fork: as Python ends, but for what would copy all that forks share."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from silofl.launcher.zygote import standing


def run_to_end(program: Callable[[], None]) -> NoReturn:
    """Run a program and end this process as Python does after it, without taking its objects apart.

    Half a million of them would be written to one by one, and the memory that holds them copied first.
    """
    code = _exit_code(program)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    _finalize_mpi(code)
    stub = standing.stub()
    if stub is not None and stub.stands_for_this():
        stub.tell_exit(code)
    os._exit(code)


def _exit_code(program: Callable[[], None]) -> int:
    code: Any = 0
    try:
        program()
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    return (code or 0) & 255


def _finalize_mpi(code: int) -> None:
    """What mpi4py does when the interpreter ends."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is None or not mpi.Is_initialized() or mpi.Is_finalized():
        return
    mpi.Finalize()
    if mpi.get_vendor()[0] != "Open MPI":
        ctypes.CDLL(None).exit(code)  # in which MPICH takes leave of its launcher
