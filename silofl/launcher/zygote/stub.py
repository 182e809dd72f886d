"""The small process that stands for a zygote's fork: it hands over all that it is, and ends as the fork does.

It starts the zygote of its node where there is none yet.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn

from silofl.launcher.environment import THREAD_VARIABLES
from silofl.launcher.watchdog_process import QUEUED_SIGNALS, die_of
from silofl.launcher.zygote import address, standing
from silofl.launcher.zygote.process_attributes import Attributes
from silofl.launcher.zygote.stub_messages import (
    EXITED,
    FORK,
    GO,
    HOLD,
    LAUNCHER_LOST,
    PID_BYTES,
    TAKEN,
    readable,
)

VARIABLE = "SILOFL_ZYGOTE"
"""Environment variable: 0 has every rank load all libraries itself."""
PINNING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Variables that bind threads to processors, of those that a process may use when it loads OpenMP."""
LOADING_TIMEOUT_S = 120.0
"""Time limit for a zygote to answer; then a rank loads everything itself."""
ATTEMPTS, PAUSE_S = 500, 0.01
BACKLOG = 1024
LOOK_S = 0.2
PASSED_ON = QUEUED_SIGNALS - {signal.SIGCHLD}
START = """
import sys
listener, *sys.path = sys.argv[1:]
from silofl.launcher.zygote.server import main
main(int(listener))
"""


def wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether ranks with these variables start as forks of a zygote.

    Not where threads are bound, or where libraries are to have unlike numbers of them.
    """
    threads = {environ[name] for name in THREAD_VARIABLES if environ.get(name)}
    plain = len(threads) <= 1 and not any(environ.get(name) for name in PINNING)
    return sys.platform == "linux" and environ.get(VARIABLE, "") != "0" and plain


def take_place() -> None:
    """Have a fork of this node's zygote take the place of this process, which stands for it to its end.

    Returns where it cannot: then this process goes on as it is. Call it before threads, NumPy or MPI exist.
    """
    if not wanted() or standing.stub() is not None or len(os.listdir("/proc/self/task")) > 1:
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    launcher = os.getppid()
    try:
        connection = connect(os.environ)
        fork = _hand_over(connection, launcher)
    except OSError:
        fork = None
    if fork is not None:
        _stand_for(fork, connection, launcher, mask)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _hand_over(connection: socket.socket, launcher: int) -> int | None:
    """The fork that has taken this process's place, with its signals blocked here; None where none could."""
    connection.sendall(FORK)
    if _receive(connection, 1) == GO:
        attributes = Attributes.own(launcher, kept=[connection.fileno()])
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        attributes.send(connection)
        told = _receive(connection, 1 + PID_BYTES)
        if told[:1] == TAKEN:
            return int.from_bytes(told[1:], "big")
    connection.close()
    return None


class Hold:
    """Has the zygote that this machine's ranks will fork from stay while it is open, and start right away.

    For `silofl launch`, whose ranks are still to come: `environ` is what they will have, as far as is known.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._connection: socket.socket | None = None
        if wanted(environ):
            with suppress(OSError):
                self._connection = connect(environ)
                self._connection.sendall(HOLD)

    def __enter__(self) -> Hold:
        return self

    def ready_within(self, seconds: float) -> bool:
        """Whether it has loaded everything after at most so long."""
        return self._connection is not None and bool(readable([self._connection], seconds))

    def __exit__(self, *error: object) -> None:
        """Let it go. One that still loads ends at once: nobody has come to need it."""
        if self._connection is None:
            return
        loading = not self.ready_within(0)
        self._connection.close()
        for process in _started if loading else ():
            process.terminate()


_started: list[subprocess.Popen[bytes]] = []


def connect(environ: Mapping[str, str]) -> socket.socket:
    """A connection to the zygote for ranks with these variables, which is started where there is none.

    OSError where that cannot be.
    """
    name = address.address_for(environ)
    for _ in range(ATTEMPTS):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(LOADING_TIMEOUT_S)  # and a full queue, of another user's process, is an error
        try:
            connection.connect(name)
        except ConnectionRefusedError:
            connection.close()
            if not _start(name, environ):
                time.sleep(PAUSE_S)  # another process is about to
        else:
            if address.is_own(connection):
                return connection
            break
    raise ConnectionError("no zygote of this user's answers")


def _start(name: str, environ: Mapping[str, str]) -> bool:
    """Start a zygote; False where another process has its address already."""
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        listener.listen(BACKLOG)
        number = str(listener.fileno())
        process = subprocess.Popen(
            [
                sys.executable,
                *address.interpreter_flags(),
                "-P",
                "-c",
                START,
                number,
                *address.search_path(),
            ],
            env=_environment(environ),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    _started.append(process)
    return True


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Of a zygote: what is read once, without anything else, and one thread of each library."""
    found = {name: value for name, value in environ.items() if name == "PATH" or address.read_once(name)}
    return found | dict.fromkeys(THREAD_VARIABLES, "1")


def _receive(connection: socket.socket, length: int) -> bytes:
    told = b""
    while len(told) < length:
        piece = connection.recv(length - len(told))
        if not piece:
            break
        told += piece
    return told


def _stand_for(
    fork: int, connection: socket.socket, launcher: int, mask: set[int | signal.Signals]
) -> NoReturn:
    """Pass signals on to the fork, tell it when the launcher ends, and end as it does."""
    heard, told = os.pipe()
    for end in (heard, told):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(told)
    for number in PASSED_ON:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask - PASSED_ON)
    connection.settimeout(None)
    parent = launcher
    while True:
        ready = readable([connection, heard], LOOK_S)
        if connection in ready:
            _end_with(connection)
        for sent in os.read(heard, 512) if heard in ready else b"":
            if sent in PASSED_ON:
                _pass_on(sent, fork)
        if parent != os.getppid():
            parent = os.getppid()
            with suppress(OSError):
                connection.sendall(LAUNCHER_LOST)


def _pass_on(number: int, fork: int) -> None:
    """To the fork and its children, as launchers send signals to a process group."""
    if number == signal.SIGTSTP:
        os.kill(os.getpid(), signal.SIGSTOP)  # which the fork's watchdog sees
    elif number != signal.SIGCONT:
        with suppress(OSError):  # it has just ended: how is on its way
            os.killpg(fork, number)


def _end_with(connection: socket.socket) -> NoReturn:
    told = b""
    with suppress(OSError):
        told = _receive(connection, 2)
    if len(told) < 2:
        die_of(signal.SIGKILL)  # it was killed before it could say anything
    if told[:1] == EXITED:
        os._exit(told[1])
    die_of(told[1])
