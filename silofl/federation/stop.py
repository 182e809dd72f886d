"""A queue's warning: SIGTERM or SIGUSR1 finishes the round, commits it and ends with exit code 75."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopRequest:
    """Remembers that this process was asked to stop; ranks compare notes once a round.

    Outside the main thread no signal can be caught and nothing is ever asked.
    """

    def __init__(self) -> None:
        self.asked = False
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, self._note)

    def too_late(self) -> None:
        """Let later warnings pass: Python drops its handlers as it exits, and SIGUSR1 would kill."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
