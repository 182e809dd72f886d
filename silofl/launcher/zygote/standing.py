"""The small process that stands for a zygote's fork, as the fork sees it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from silofl.launcher.zygote.stub_messages import EXITED, KILLED, LAUNCHER_LOST, readable

if TYPE_CHECKING:
    import socket


class Stub:
    """The fork's end of the connection."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._connection, self.pid = connection, pid
        self._fork = os.getpid()
        self._lost_launcher = self._gone = False

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._connection.fileno()

    def gone(self) -> bool:
        """Whether the small process has ended."""
        self._listen()
        return self._gone

    def stopped(self) -> bool:
        """Whether a signal has stopped it: launchers stop what they see of a rank."""
        with suppress(OSError, IndexError):
            state = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
            return state.rpartition(")")[2].split()[0] == "T"
        return False

    def leave_to_watchdog(self) -> None:
        """In the rank: close the connection, which is its watchdog's, or its children would hold it, too."""
        self._connection.close()

    def lost_launcher(self) -> bool:
        """Whether its launcher has ended."""
        self._listen()
        return self._lost_launcher

    def stands_for_this(self) -> bool:
        """Whether it stands for this very process, and not for its watchdog."""
        return self._fork == os.getpid()

    def tell_exit(self, code: int) -> None:
        """Have it end by this exit code."""
        self._tell(EXITED, code)

    def tell_killed(self, number: int) -> None:
        """Have it die of this signal."""
        self._tell(KILLED, number)

    def _tell(self, kind: bytes, number: int) -> None:
        with suppress(OSError):  # it has ended
            self._connection.sendall(kind + bytes([number & 255]))

    def _listen(self) -> None:
        while not self._gone and readable([self._connection], 0):
            try:
                told = self._connection.recv(1)
            except OSError:
                told = b""
            self._gone = not told
            self._lost_launcher |= told == LAUNCHER_LOST


_stubs: list[Stub] = []


def set_stub(stub: Stub) -> None:
    """In a zygote's fork: the small process that stands for it."""
    _stubs[:] = [stub]


def stub() -> Stub | None:
    """The small process that stands for this one; None where no zygote has forked this process."""
    return _stubs[0] if _stubs else None
