"""What a process is that another takes its place for: all that its launcher and its user gave it."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

HIGHEST_MOVED = 1000
"""Descriptors from here on are its own while a process takes on those of another."""
MOST_DESCRIPTORS = 253
"""As many the kernel passes on in one message (SCM_RIGHTS, unix(7))."""
_LENGTH = 8
_NOFILE = resource.RLIMIT_NOFILE


@dataclass(frozen=True)
class Attributes:
    """Of a process, beside its descriptors. Nobody prints them: the environment may hold secrets."""

    environ: dict[str, str]
    arguments: list[str]
    """`sys.argv`."""
    command: list[str]
    """`sys.orig_argv`."""
    search_path: list[str]
    folder: str
    umask: int
    processors: list[int]
    ignored: list[int]
    """Signals that it ignores, by the will of who started it."""
    blocked: list[int]
    launcher: int
    """The process that started it."""
    pid: int
    descriptors: list[int]

    def __repr__(self) -> str:
        return f"Attributes(pid={self.pid})"

    @classmethod
    def own(cls, launcher: int, kept: Sequence[int] = ()) -> Attributes:
        """This process's, without the descriptors `kept`. For a process of one thread."""
        umask = os.umask(0o077)
        os.umask(umask)
        return cls(
            environ=dict(os.environ),
            arguments=sys.argv,
            command=sys.orig_argv,
            search_path=sys.path,
            folder=os.getcwd(),
            umask=umask,
            processors=sorted(os.sched_getaffinity(0)),
            ignored=[one for one in signal.valid_signals() if signal.getsignal(one) == signal.SIG_IGN],
            blocked=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            launcher=launcher,
            pid=os.getpid(),
            descriptors=[one for one in _open_descriptors() if one not in kept],
        )

    def send(self, connection: socket.socket) -> None:
        """Send them and their descriptors. OSError where that cannot be."""
        text = json.dumps(asdict(self)).encode()
        if len(self.descriptors) > MOST_DESCRIPTORS:
            raise OSError("too many descriptors to pass on")
        socket.send_fds(connection, [len(text).to_bytes(_LENGTH, "big")], self.descriptors)
        connection.sendall(text)

    @classmethod
    def receive(cls, connection: socket.socket) -> tuple[Attributes, list[int]]:
        """Those of the process at the other end, and its descriptors by their numbers here."""
        length, received, _, _ = socket.recv_fds(connection, _LENGTH, MOST_DESCRIPTORS)
        text = bytearray()
        while len(text) < int.from_bytes(length, "big"):
            piece = connection.recv(1 << 20)
            if not piece:
                raise EOFError
            text += piece
        return cls(**json.loads(text)), received

    def take_on(
        self, received: Sequence[int], kept: socket.socket, set_by_libraries: Mapping[str, str]
    ) -> socket.socket:
        """Become such a process, with descriptors as it has them; returns `kept`, under another number.

        Variables that libraries have set for themselves stay. OSError where something of it cannot be.
        """
        connection = _move_descriptors(self.descriptors, received, kept)
        os.chdir(self.folder)
        os.umask(self.umask)
        os.sched_setaffinity(0, self.processors)
        os.environ.clear()
        os.environ.update({**set_by_libraries, **self.environ})
        time.tzset()
        tempfile.tempdir = None  # found anew by the variables
        sys.argv[:], sys.orig_argv[:], sys.path[:] = self.arguments, self.command, self.search_path
        self._take_on_signals()
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            setattr(sys, name, _stream(number, name, self.environ))
            setattr(sys, f"__{name}__", getattr(sys, name))
        return connection

    def _take_on_signals(self) -> None:
        for number in signal.valid_signals():
            if number in self.ignored:
                signal.signal(number, signal.SIG_IGN)
            elif signal.getsignal(number) not in {signal.SIG_DFL, None}:
                signal.signal(number, signal.SIG_DFL)
        if signal.SIGINT not in self.ignored:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python does at its start
        signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)


def _open_descriptors() -> list[int]:
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # that of the listing is closed by now
            os.fstat(number)
            found.append(number)
    return sorted(found)


def _move_descriptors(numbers: Sequence[int], received: Sequence[int], kept: socket.socket) -> socket.socket:
    """Close all but `received`, which get their `numbers`, and `kept`."""
    soft, _ = resource.getrlimit(_NOFILE)
    above = min(HIGHEST_MOVED, soft - len(received) - 1)
    if above <= max((*numbers, *received, kept.fileno())):
        raise OSError("too many open files")
    places = range(above, above + len(received))
    for descriptor, place in zip(received, places, strict=True):
        os.dup2(descriptor, place, inheritable=False)
    connection = above + len(received)
    os.dup2(kept.fileno(), connection, inheritable=False)
    kept.detach()
    os.closerange(0, above)
    for place, number in zip(places, numbers, strict=True):
        os.dup2(place, number, inheritable=True)
        os.close(place)
    return socket.socket(fileno=connection)


def _stream(number: int, name: str, environ: dict[str, str]) -> Any:
    """A standard stream as Python makes it at its start; None where the process has none."""
    try:
        raw = io.FileIO(number, "w" if number else "r", closefd=False)
    except OSError:
        return None
    at_once = bool(environ.get("PYTHONUNBUFFERED"))
    before = getattr(sys, f"__{name}__")
    if not number:
        buffer = io.BufferedReader(raw)
        return io.TextIOWrapper(buffer, before.encoding, before.errors, write_through=at_once)
    return io.TextIOWrapper(
        raw if at_once else io.BufferedWriter(raw),
        before.encoding,
        before.errors,
        line_buffering=not at_once and (name == "stderr" or raw.isatty()),
        write_through=at_once,
    )
