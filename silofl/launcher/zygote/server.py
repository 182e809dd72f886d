"""The zygote itself: loads all libraries, then forks for every process that asks.

It ends with the last that it serves: `silofl launch` for as long as it runs, and ranks.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from silofl.errors import EXIT_BAD_INPUT
from silofl.launcher import process_tree
from silofl.launcher.zygote import address, standing
from silofl.launcher.zygote.ending import run_to_end
from silofl.launcher.zygote.process_attributes import Attributes
from silofl.launcher.zygote.stub_messages import FORK, GO, HOLD, PID_BYTES, READY, TAKEN, readable

LINGER_S = 15.0
"""So long it stays after ranks that failed: they, or the whole job, may be started again."""
FINISHED = (0, EXIT_BAD_INPUT)
"""Exit codes of ranks that are not started again."""
IGNORED = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)
"""Signals that are for ranks, where all processes of a job get them."""
PRELOAD = "silofl.preload"
"""Of a floor above this one, as is the command that forks run."""
COMMAND = "silofl.__main__"


def main(listener: int) -> None:
    """Serve on this descriptor; in the forks, run the command of the process that each takes the place of."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _name("silofl-zygote")
    given = set(os.environ)
    gc.disable()  # what is loaded stays
    import_module(PRELOAD).preload()
    set_by_libraries = {name: value for name, value in os.environ.items() if name not in given}
    if not may_fork():
        os._exit(1)
    gc.collect()
    gc.freeze()
    stub = Server(socket.socket(fileno=listener)).serve()
    _become(stub, set_by_libraries)

    run_to_end(import_module(COMMAND).main)


def may_fork() -> bool:
    """Whether forks can do without what a fork lacks: all threads but one, MPI's and a GPU's connections."""
    torch = sys.modules.get("torch")
    one_thread = len(os.listdir("/proc/self/task")) == 1
    on_gpu = torch is not None and torch.cuda.is_initialized()
    return one_thread and "mpi4py.MPI" not in sys.modules and not on_gpu


class Server:
    """Connections of those that are served, and processes that were forked for them."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._children: set[int] = set()
        self._holders: list[socket.socket] = []
        self._asking: list[socket.socket] = []
        self._awaits = True
        """Whether somebody may still come once nobody is there: at first, and after a failure."""
        self._changes, told = os.pipe()
        os.set_blocking(told, False)
        os.set_blocking(self._changes, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(told)

    def serve(self) -> socket.socket:
        """Return in each fork, with the connection to the process that asked. Does not return otherwise."""
        while True:
            idle = not (self._children or self._holders or self._asking)
            if idle and not self._awaits:
                os._exit(0)
            connections = [self._listener, *self._holders, *self._asking]
            watched: list[Any] = [self._changes, *connections]
            ready = readable(watched, LINGER_S if idle else None)
            if idle and not ready:
                os._exit(0)
            self._reap()
            if self._listener in ready:
                self._accept()
            for holder in [one for one in self._holders if one in ready]:
                self._holders.remove(holder)
                holder.close()
            for connection in [one for one in self._asking if one in ready]:
                self._asking.remove(connection)
                if self._answer(connection):
                    return connection

    def _accept(self) -> None:
        with suppress(OSError):  # it has gone
            connection, _ = self._listener.accept()
            if address.is_own(connection):
                self._asking.append(connection)
            else:
                connection.close()

    def _answer(self, connection: socket.socket) -> bool:
        """Do what is asked; True in a fork."""
        with suppress(OSError):  # it has gone, or no process can be made: it sees the connection's end
            asked = connection.recv(1)
            if asked == HOLD:
                connection.sendall(READY)
                self._holders.append(connection)
                self._awaits = False
                return False
            if asked == FORK:
                child = os.fork()
                if not child:
                    return True
                self._children.add(child)
        connection.close()
        return False

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._changes, 512)
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self._children.discard(found[0])
                self._awaits = os.waitstatus_to_exitcode(found[1]) not in FINISHED and not self._holders


def _become(asked: socket.socket, set_by_libraries: dict[str, str]) -> None:
    """In a fork: take the place of the process at the other end, which learns of it; else end this one."""
    signal.set_wakeup_fd(-1)
    gc.enable()
    try:
        asked.sendall(GO)
        attributes, received = Attributes.receive(asked)
        connection = attributes.take_on(received, asked, set_by_libraries)
        os.setpgid(0, 0)
        _name("silofl-rank")
        process_tree.started_by(attributes.launcher)
        standing.set_stub(standing.Stub(connection, attributes.pid))
        _make_own(attributes.folder)
        connection.sendall(TAKEN + os.getpid().to_bytes(PID_BYTES, "big"))
    except Exception:  # the process at the other end goes on by itself
        os._exit(1)


def _make_own(folder: str) -> None:
    """What every process has of its own; Python's random numbers do so themselves."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()
    if "multiprocessing.process" in sys.modules:
        processes: Any = sys.modules["multiprocessing.process"]
        processes.current_process().authkey = os.urandom(32)
        processes.ORIGINAL_DIR = folder


def _name(name: str) -> None:
    """As ps and top show this process."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")
